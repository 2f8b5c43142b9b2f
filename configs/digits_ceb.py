r"""CEB on scikit-learn's digits (the MNIST experiment made small; no download).

python -m launch.train --config=configs/digits_ceb.py \
    --workdir=runs/digits_ceb

Takes 15 s on 2 CPU cores. Expect 98.3% test accuracy in mean mode and 99.4% in
stochastic mode (seed 0, measured).
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.digits("ceb", preset)


def sweep(add, preset: str = ""):
    """Digits, CEB over rho and its twin: figures 3, 4 and 10 in small."""
    rhos = (2.0, 3.0) if preset == "smoke" else (1.0, 2.0, 3.0, 4.0, 5.0)
    common.grid(
        add,
        "ceb",
        rhos,
        min(common.num_seeds(preset), 3),
        lambda rho: common.digits_as_cifar10(preset, restarts=rho == 3.0),
        twin_config="digits_deterministic",
        twin_audits=common.digits_as_cifar10(preset, restarts=True),
        landscape=common.ceb_landscape(preset, common.DIGITS_EPSILON),
    )
    return common.budget("digits", preset)
