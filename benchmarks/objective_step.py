"""A training step by each objective, against the standard one on one model.

python -m benchmarks.objective_step

The model is the small CNN of MNIST's adversarial presets with the VIB. A step
of PGD training with k steps takes k gradients with respect to images besides
its own, so it costs at least about k + 1 standard steps, and N-FGSM 2.
"""

from benchmarks import models
from benchmarks import timing

BATCH = 100
STEPS = 10
_PGD_STEPS = 10

OBJECTIVES = {
    "standard": {"name": "standard"},
    "pgd_at": {"name": "pgd_at", "num_steps": _PGD_STEPS},
    "n_fgsm": {"name": "n_fgsm"},
    "trades": {"name": "trades", "num_steps": _PGD_STEPS},
    "cure": {"name": "cure"},
    "llr": {"name": "llr", "num_steps": _PGD_STEPS},
}
TARGETS = {"pgd_at": 1.1 * (_PGD_STEPS + 1), "n_fgsm": 2.2}


def function(section):
    steps, iterator, _ = models.steps(
        "mnist",
        "vib",
        BATCH,
        changes={
            "encoder": {"name": "small_cnn"},
            "objective": section,
        },
    )
    return lambda: steps.train_steps(iterator, STEPS)


def main():
    functions = {name: function(s) for name, s in OBJECTIVES.items()}
    units = dict.fromkeys(functions, STEPS)
    table = timing.compare(functions, units, "standard", rounds=7)
    timing.show(f"MNIST VIB, batch {BATCH}, against standard", table, TARGETS)


if __name__ == "__main__":
    main()
