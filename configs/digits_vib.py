r"""VIB on scikit-learn's digits (the MNIST experiment made small; no download).

python -m launch.train --config=configs/digits_vib.py \
    --workdir=runs/digits_vib

Takes 15 s on 2 CPU cores. Expect 98.6% test accuracy in mean mode and in
stochastic mode (seed 0, measured).
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.digits("vib", preset)


def sweep(add, preset: str = ""):
    """Digits, VIB over beta and its twin: figures 1, 2, 8 and 9 in small."""
    betas = (1e-3, 1e-2) if preset == "smoke" else (1e-4, 1e-3, 1e-2, 1e-1)
    common.grid(
        add,
        "vib",
        betas,
        min(common.num_seeds(preset), 3),
        lambda beta: (
            common.digits_as_mnist(preset, is_stochastic=True)
            | common.digits_as_cifar10(preset, restarts=beta == 0.01)
        ),
        twin_config="digits_deterministic",
        twin_audits=(
            common.digits_as_mnist(preset, is_stochastic=False)
            | common.digits_as_cifar10(preset, restarts=True)
        ),
    )
    return common.budget("digits", preset)
