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
    """Digits, VIB over beta and its twin: figures 1, 2 and 8 in small."""
    betas = (1e-3, 1e-2) if preset == "smoke" else (1e-4, 1e-3, 1e-2, 1e-1)
    seeds = min(common.num_seeds(preset), 3)
    for beta in betas:
        for seed in range(seeds):
            add(
                f"vib_beta_{beta:g}_seed_{seed}",
                {"bottleneck.beta": beta, "seed": seed},
                audits=common.digits_audits(preset, is_stochastic=True),
                labels={"model": "vib", "beta": beta, "seed": seed},
            )
    for seed in range(seeds):
        add(
            f"deterministic_seed_{seed}",
            {"seed": seed},
            config="digits_deterministic",
            audits=common.digits_audits(preset, is_stochastic=False),
            labels={"model": "deterministic", "seed": seed},
        )
    return common.budget("digits", preset)
