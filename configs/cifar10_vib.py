r"""VIB on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_vib.py \
    --workdir=runs/cifar10_vib

@@RESULT@@
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("vib", preset)
