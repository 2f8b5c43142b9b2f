r"""The linear classifier on the toy problem of Tsipras et al. (equation 4).

python -m launch.train --config=configs/toy_tsipras_linear.py \
    --workdir=runs/toy_tsipras_linear

Takes 16 s on 2 CPU cores. Expect 99.9% on the test split
and 0.4% on the adversarial one (seed 0, measured). A pixel is 1/2 + x/16, and
the model computes on x; see toy_tsipras_vib.py.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.toy("toy_tsipras", "linear", preset)
