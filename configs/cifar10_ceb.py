r"""CEB on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_ceb.py \
    --workdir=runs/cifar10_ceb

1000 epochs of 48 steps; made for an accelerator, and not yet run to the end
anywhere. Expect above 90% test accuracy (the paper, section 3.2). `:cpu` is 7
epochs by SGD in bfloat16: 82.3% in mean mode and 82.0% in stochastic mode (seed
0, measured), 70 minutes on one CPU core, its twin beside it on another.
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("ceb", preset)


def sweep(add, preset: str = ""):
    """CIFAR-10, CEB over rho and its twin: figures 3, 4 and 10."""
    rhos = (1.0, 2.0, 3.0, 4.0, 5.0) if preset == "" else (3.0,)
    common.grid(
        add,
        "ceb",
        rhos,
        1 if preset == "cpu" else common.num_seeds(preset),
        lambda rho: common.cifar10_audits(preset, restarts=rho == 3.0),
        twin_config="cifar10_deterministic",
        twin_audits=common.cifar10_audits(preset, restarts=True),
        landscape=common.ceb_landscape(preset),
    )
    return common.budget("cifar10", preset)
