r"""CEB on MNIST (Korshunova et al. 2021, section 3.1).

python -m launch.train --config=configs/mnist_ceb.py \
    --workdir=runs/mnist_ceb

200 epochs are 120,000 steps, as of mnist_vib. The paper trains CEB on CIFAR-10
alone, so it has no number to expect; this is the VIB recipe with the other
bottleneck.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.mnist("ceb", preset)
