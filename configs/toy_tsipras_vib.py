r"""VIB on the toy problem of Tsipras et al. (the paper's equation 4).

python -m launch.train --config=configs/toy_tsipras_vib.py \
    --workdir=runs/toy_tsipras_vib

Takes 20 s on 2 CPU cores, 6 of them to train. Expect 99.5% on the test split
and 1.4% on the adversarial one in either mode; with beta=1 99.7% and 6.1% in
mean mode, and 90.3% and 30.6% in stochastic mode (seed 0, measured).

A pixel is 1/2 + x/16, and the model computes on x. Who audits with l_inf: the
paper's 2 eta = 0.6 is epsilon = 0.0375 in pixel units, and such an attack may
move the first feature too.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.toy("toy_tsipras", "vib", preset)


def sweep(add, preset: str = ""):
    """Equation 4, VIB over beta and the linear classifier: figure 7."""
    return common.toy_sweep(add, "toy_tsipras", preset)
