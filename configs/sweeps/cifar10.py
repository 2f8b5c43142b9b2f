"""The audits of CIFAR-10 models (figures 3, 9) and surfaces (figures 4, 10)."""

EPSILON = 8 / 255  # l_inf, in pixel units of [0, 1].

_SIZES = {
    "": {"num_examples": 1000, "batch_size": 500},
    "cpu": {"num_examples": 100, "batch_size": 50},
    "smoke": {"num_examples": 8, "batch_size": 8},
}
_NO_DIAGNOSTICS = {"diagnostics.set": "none"}
# By protocol, the changes of its stages for :smoke.
_SHORT = {
    "pgd_madry": {
        "stages.pgd.num_restarts": 1,
        "stages.pgd.attack.num_steps": 2,
    },
    "aa_mt": {
        "stages.apgd_ce.num_restarts": 1,
        "stages.apgd_ce.attack.num_steps": 2,
        "stages.apgd_dlr.num_restarts": 1,
        "stages.apgd_dlr.attack.num_steps": 2,
        "stages.multi_targeted.num_restarts": 1,
        "stages.multi_targeted.attack.num_steps": 2,
    },
}


def audits(preset: str, *, restarts: bool):
    """The audits of one model.

    Args:
        preset: What follows the colon of --config.
        restarts: Whether PGD with growing restarts (figures 3b and 9b) is
            between PGD (3a and 9a) and AA+MT (3c and 9c).

    Returns:
        Name -> protocol and its changed fields.
    """
    size = _SIZES[preset]
    # Diagnostics are run on the restarts, not on the one restart before them.
    found = {"madry": {"protocol": "pgd_madry", **size, **_NO_DIAGNOSTICS}}
    if restarts:
        found["madry_restarts"] = {
            "protocol": "pgd_madry",
            **size,
            "stages.pgd.num_restarts": 100,
        }
    found["aa_mt"] = {"protocol": "aa_mt", **size}
    if preset in ("cpu", "smoke"):
        # Those of one ResNet took over 20 minutes on two cores.
        found = {k: audit | _NO_DIAGNOSTICS for k, audit in found.items()}
    if preset == "smoke":
        found = {k: a | _SHORT[a["protocol"]] for k, a in found.items()}
    return found


def landscape(preset: str, epsilon: float = EPSILON):
    """The loss surfaces of one model: how many, and the radius."""
    # One for figure 4 and three for figure 10.
    found = {"epsilon": epsilon, "num_images": 4}
    if preset == "smoke":
        found |= {"grid": 5, "num_examples": 32, "num_restarts": 1}
    return found
