r"""VIB on the paper's toy problem (Korshunova et al. 2021, section 3.3).

python -m launch.train --config=configs/toy_overlap_vib.py \
    --workdir=runs/toy_overlap_vib

Takes 18 s on 2 CPU cores, 5 of them to train. Expect 98.9% on the test split
in either mode and 89.7% on the adversarial one (seed 0, measured); a weaker
bottleneck, beta=0.0001, has 99.7% and 96.9%, and the linear classifier more.

A pixel is 1/2 + x/32, and the model computes on x. Who audits with l_inf: the
paper's perturbation of the second feature by 1 is epsilon = 1/32 in pixel
units.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.toy("toy_overlap", "vib", preset)


def sweep(add, preset: str = ""):
    """Section 3.3, VIB over beta and the linear classifier: figure 5."""
    return common.toy_sweep(add, "toy_overlap", preset)
