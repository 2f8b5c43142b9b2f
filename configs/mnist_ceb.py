r"""CEB on MNIST (Korshunova et al. 2021, section 3.1).

python -m launch.train --config=configs/mnist_ceb.py \
    --workdir=runs/mnist_ceb

@@RESULT@@
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.mnist("ceb", preset)
