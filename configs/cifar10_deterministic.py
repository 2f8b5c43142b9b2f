r"""The deterministic twin on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_deterministic.py \
    --workdir=runs/cifar10_deterministic

@@RESULT@@
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("deterministic", preset)
