"""The audits of MNIST models: figures 1, 2 and 8."""


def audits(preset: str, *, is_stochastic: bool, restarts: bool):
    """The audits of one model.

    Args:
        preset: What follows the colon of --config.
        is_stochastic: Whether the model has noise, and so a second mode.
        restarts: Whether PGD with growing restarts (figures 2 and 8) follows
            FGS (figure 1).

    Returns:
        Name -> protocol and its changed fields.
    """
    fgs = {
        "protocol": "fgs_epsilons",
        "num_examples": {"": 10_000, "cpu": 1000, "smoke": 16}[preset],
        # A single step is no evidence, so no diagnostics are run on it.
        "diagnostics.set": "none",
    }
    found = {"fgs_mean": fgs}
    if is_stochastic:
        found["fgs_stochastic"] = fgs | {"mode": "stochastic"}
    if restarts:
        found["restarts"] = {
            "protocol": "pgd_restarts",
            "num_examples": {"": 1000, "cpu": 500, "smoke": 16}[preset],
            "stages.pgd.num_restarts": 100,
        }
        if preset == "smoke":
            found["restarts"] |= {
                "stages.pgd.num_restarts": 3,
                "stages.pgd.attack.num_steps": 2,
                "diagnostics.set": "none",
            }
    return found
