r"""Does a bottleneck add to adversarial training? A study on MNIST.

python -m launch.sweep --config=configs/ib_adversarial.py \
    --workdir=sweeps/ib_adversarial --workers=2

Korshunova et al. (2021) end with the question whether bottlenecks help "with
additional curvature regularization or in combination with adversarial
training". This sweep trains the deterministic baseline, VIB and CEB by five
objectives at epsilon 0.3 and audits each model by AA+MT at 0.1, 0.2 and 0.3, in
mean and in stochastic mode. `launch.figures --figure=11` draws the answer.

`:cpu` is for one night on two CPU cores: 5 of 20 epochs, PGD of 10 steps in
training, and audits by `fast_ensemble`, which takes 24 times fewer gradients
than AA+MT, on the first 500 test images. Runs are in the order of their seeds,
so that a part of it has all models and objectives: --only=seed_0.
"""

from configs import mnist_vib
from configs.sweeps import grid

OBJECTIVES = ("standard", "n_fgsm", "pgd_at", "trades", "cure")
# Bottlenecks with the fields that are swept.
MODELS = (
    ("deterministic", {}),
    ("vib", {"beta": 0.01}),
    ("ceb", {"rho": 3.0}),
    ("vib", {"beta": 0.001}),
    ("ceb", {"rho": 1.0}),
)
RADII = (0.1, 0.2, 0.3)  # l_inf, in pixel units of [0, 1].
_NUM_EXAMPLES = {"": 1000, "cpu": 500, "smoke": 8}


def get_config(preset: str = ""):
    """Returns the config of one training: VIB by PGD."""
    return mnist_vib.get_config(",".join(filter(None, ("pgd_at", preset))))


def sweep(add, preset: str = ""):
    """MNIST, bottlenecks by objectives by seeds: figure 11."""
    models, objectives = MODELS, OBJECTIVES
    num_seeds = {"": 5, "cpu": 3, "smoke": 1}[preset]
    if preset == "smoke":
        models, objectives = MODELS[:2], ("standard", "pgd_at")
    for seed in range(num_seeds):
        for model, bottleneck in models:
            for objective in objectives:
                grid.add_run(
                    add,
                    seed,
                    model,
                    bottleneck,
                    objective=objective,
                    config=f"mnist_{model}:{objective}",
                    fields=_shorter(objective) if preset == "cpu" else {},
                    audits=_audits(preset, is_stochastic=bool(bottleneck)),
                )
    return {
        "": "20 epochs; AA+MT on 1,000 of 10,000 test images.",
        "cpu": "5 of 20 epochs, 3 of 5 seeds, PGD of 10 steps in training; "
        "fast_ensemble in place of AA+MT, on 500 of 10,000 test images.",
        "smoke": "Random images and a few steps: the numbers mean nothing.",
    }[preset]


def _shorter(objective: str) -> dict:
    """The changes of a training for :cpu."""
    fields = {"num_epochs": 5, "optim.decay_factor": 0.5}
    if objective in ("pgd_at", "trades"):
        fields |= {"objective.num_steps": 10, "objective.step_size": 0.04}
    if objective in ("n_fgsm", "pgd_at", "trades"):
        fields |= {"objective.ramp_epochs": 2.0}
    if objective == "cure":
        fields |= {"objective.anneal_epochs": 2.0}
    return fields


def _audits(preset: str, *, is_stochastic: bool) -> dict:
    """An audit at each radius in each mode that the model has."""
    protocol = "fast_ensemble" if preset == "cpu" else "aa_mt"
    found = {}
    for mode in ("mean", "stochastic")[: 1 + is_stochastic]:
        for epsilon in RADII:
            audit = found[f"{protocol}_{mode}_{epsilon:g}"] = {
                "protocol": protocol,
                "threat_model.epsilon": epsilon,
                "mode": mode,
                "num_examples": _NUM_EXAMPLES[preset],
            }
            if preset == "cpu" and epsilon != max(RADII) or preset == "smoke":
                audit["diagnostics.set"] = "none"
            if preset == "smoke":
                for stage in ("apgd_ce", "apgd_dlr", "multi_targeted"):
                    audit[f"stages.{stage}.num_restarts"] = 1
                    audit[f"stages.{stage}.attack.num_steps"] = 2
    return found
