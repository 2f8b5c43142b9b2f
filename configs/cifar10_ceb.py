r"""CEB on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_ceb.py \
    --workdir=runs/cifar10_ceb

1000 epochs of 48 steps; made for an accelerator, and not yet run to the end
anywhere. Expect above 90% test accuracy (the paper, section 3.2).
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("ceb", preset)
