r"""VIB on MNIST (Korshunova et al. 2021, section 3.1).

python -m launch.train --config=configs/mnist_vib.py \
    --workdir=runs/mnist_vib

200 epochs are 120,000 steps. Expect 98.2% to 98.9% test accuracy (the paper's
range over all its MNIST models). Measured here: 98.65% in mean mode and 98.57%
in stochastic mode (seed 0), in 39 minutes on 2 CPU cores that were shared; a
step alone takes 11 ms.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.mnist("vib", preset)


def sweep(add, preset: str = ""):
    """MNIST, VIB over beta and its twin: figures 1, 2 and 8."""
    betas = {
        "": (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        "cpu": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "smoke": (1e-3, 1e-2),
    }[preset]
    common.grid(
        add,
        "vib",
        betas,
        common.num_seeds(preset),
        lambda beta: common.mnist_audits(
            preset, is_stochastic=True, restarts=beta == 0.01
        ),
        twin_config="mnist_deterministic",
        twin_audits=common.mnist_audits(
            preset, is_stochastic=False, restarts=True
        ),
    )
    return common.budget("mnist", preset)
