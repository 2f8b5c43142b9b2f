r"""VIB on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_vib.py \
    --workdir=runs/cifar10_vib

1000 epochs of 48 steps; made for an accelerator, and not yet run to the end
anywhere. Expect above 90% test accuracy (the paper, section 3.2). `:cpu` is the
short training of cifar10_ceb: 82.0% test accuracy (82.1% stochastic) in 72
minutes on 2 CPU cores that were shared.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("vib", preset)


def sweep(add, preset: str = ""):
    """CIFAR-10, VIB over beta and its twin: figure 9."""
    betas = (1e-4, 1e-3, 1e-2, 1e-1) if preset == "" else (1e-2,)
    common.grid(
        add,
        "vib",
        betas,
        1 if preset == "cpu" else common.num_seeds(preset),
        lambda beta: common.cifar10_audits(preset, restarts=beta == 0.01),
        twin_config="cifar10_deterministic",
        twin_audits=common.cifar10_audits(preset, restarts=True),
    )
    return common.budget("cifar10", preset)
