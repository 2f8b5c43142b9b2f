r"""VIB on CIFAR-10 (Korshunova et al. 2021, section 3.2).

python -m launch.train --config=configs/cifar10_vib.py \
    --workdir=runs/cifar10_vib

1000 epochs of 48 steps; made for an accelerator, and not yet run to the end
anywhere. Expect above 90% test accuracy (the paper, section 3.2).
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.cifar10("vib", preset)


def sweep(add, preset: str = ""):
    """CIFAR-10, VIB over beta and its twin: figures 9."""
    betas = (1e-4, 1e-3, 1e-2, 1e-1) if preset == "" else (1e-2,)
    seeds = 1 if preset == "cpu" else common.num_seeds(preset)
    for beta in betas:
        for seed in range(seeds):
            add(
                f"vib_beta_{beta:g}_seed_{seed}",
                {"bottleneck.beta": beta, "seed": seed},
                audits=common.cifar10_audits(preset, restarts=beta == 0.01),
                labels={"model": "vib", "beta": beta, "seed": seed},
            )
    for seed in range(seeds):
        add(
            f"deterministic_seed_{seed}",
            {"seed": seed},
            config="cifar10_deterministic",
            audits=common.cifar10_audits(preset, restarts=True),
            labels={"model": "deterministic", "seed": seed},
        )
    return common.budget("cifar10", preset)
