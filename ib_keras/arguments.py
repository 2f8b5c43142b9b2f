"""What arguments of parts may be, known without importing the parts.

An argument means the same in all parts of a package that have it, so its name
says what values there are. A new part may use it otherwise without a line
here: a check that would refuse the default of its own `build` is not about it.
What is not here is left to the parts, and so is None, which some take.
"""

import inspect
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import ThreatModel
from ib_keras.types import is_number

LOSSES = ("cross_entropy", "margin", "dlr", "probability_margin")
TARGETED_LOSSES = (
    "targeted_margin",
    "targeted_dlr",
    "targeted_probability_margin",
)
OPTIMIZERS = ("adam", "sign")
SCHEDULES = ("decade", "dm40", "constant")
# What the first half of margin decomposition ascends.
FIRST_TERMS = ("label", "other")
RATE_ESTIMATORS = ("sampled", "closed_form")
SHAPES = ("linear", "geometric")
MODES = ("mean", "stochastic")
# The images that an adversarial objective takes the rate of.
RATES_OF = ("clean", "adversarial")
# Of a training: what is done to images, and what the encoder computes in.
NORMALISATIONS = ("minus_one_one", "train_statistics", "features", "none")
PRECISIONS = ("float32", "bfloat16")
# Of Keras, for a dense layer and without arguments; and other names of some.
INITIALIZERS = (
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "zeros",
)
_OTHER_INITIALIZERS = (
    "identity_initializer",
    "normal",
    "one",
    "orthogonal_initializer",
    "uniform",
    "zero",
)
# What follows where an adversarial training collapses.
ACTIONS = ("warn", "stop")


def _wrong(name, value, kind, expected) -> UserError:
    return UserError(
        f"{name} is not a {kind}",
        received=f"{name}={value!r}",
        expected=expected,
        fix=f"Correct {name} in the config.",
    )


def _count(smallest: int = 1) -> Callable[[str, Any], Any]:
    def check(name, value):
        if not is_number(value) or int(value) != value or value < smallest:
            expected = f"a whole number, {smallest} or more"
            raise _wrong(name, value, "count", expected)

    return check


def _number(lowest: float = -math.inf, *, above: bool = False):
    def check(name, value):
        if is_number(value) and (value > lowest if above else value >= lowest):
            return
        least = f", {'above' if above else 'at least'} {lowest:g}"
        if lowest == -math.inf:
            least = ""
        raise _wrong(name, value, "number it can be", f"a finite number{least}")

    return check


def _one_of(*valid: str):
    def check(name, value):
        if value not in valid:
            kind = name.replace("_", " ")
            raise unknown_name(kind, value, valid, f"Set {name} to it.")

    return check


def _share(name, value):
    if not is_number(value) or not 0 <= value < 1:
        raise _wrong(name, value, "number it can be", "at least 0, below 1")


def _radius(name, value):
    _number(0.0, above=True)(name, value)
    ThreatModel("linf", value)  # Refuses what is plainly in other units.


def _counts(name, values):
    for value in values if isinstance(values, list | tuple) else (values,):
        if not is_number(value) or int(value) != value or value < 1:
            raise _wrong(
                name, values, "list of counts", "whole numbers above 0"
            )


def _initializer(name, value):
    # Registered ones have a package before them, and dicts are whole configs.
    if isinstance(value, str) and ">" not in value:
        plain = value.replace("_", "").lower()
        known = (*INITIALIZERS, *_OTHER_INITIALIZERS)
        if plain not in {name.replace("_", "") for name in known}:
            raise unknown_name(
                "initializer", value, INITIALIZERS, f"Set {name} to it."
            )


# Package -> argument -> its check; "training" is the rest of a config.
CHECKS = {
    "attacks": {
        "num_steps": _count(),
        "num_eot": _count(),
        "num_targets": _count(0),
        "step_size": _number(0.0, above=True),
        "learning_rate": _number(0.0, above=True),
        "loss": _one_of(*LOSSES, *TARGETED_LOSSES),
        "optimizer": _one_of(*OPTIMIZERS),
        "schedule": _one_of(*SCHEDULES),
        "first_term": _one_of(*FIRST_TERMS),
    },
    "bottlenecks": {
        "latent_dim": _count(),
        "beta": _number(0.0),
        "rho": _number(),
        "anneal_epochs": _number(0.0),
        "anneal_shape": _one_of(*SHAPES),
        "rate_estimator": _one_of(*RATE_ESTIMATORS),
    },
    "encoders": {"hidden_units": _counts},
    "objectives": {
        "epsilon": _radius,
        "step_size": _number(0.0, above=True),
        "num_steps": _count(),
        "loss": _one_of(*LOSSES),
        "mode": _one_of(*MODES),
        "rate_of": _one_of(*RATES_OF),
        "beta": _number(0.0, above=True),
        "gamma": _number(0.0, above=True),
        "h": _number(0.0, above=True),
        "anneal_epochs": _number(0.0),
        "weight": _number(0.0, above=True),
        "mu": _number(0.0, above=True),
        "noise": _number(0.0, above=True),
        "kappa": _share,
        "warmup_epochs": _number(0.0),
        "ramp_epochs": _number(0.0),
        "ramp_steps": _count(0),
        "warmup_steps": _count(0),
    },
    "training": {
        "precision": _one_of(*PRECISIONS),
        "input.normalisation": _one_of(*NORMALISATIONS),
        "optim.learning_rate": _number(0.0, above=True),
        "optim.decay_factor": _number(0.0, above=True),
        "optim.decay_every_epochs": _number(0.0, above=True),
        "optim.beta_1": _share,
        "optim.beta_2": _share,
        "optim.epsilon": _number(0.0, above=True),
        "optim.momentum": _share,
        "optim.weight_decay": _number(0.0),
        "optim.clipnorm": _number(0.0, above=True),
        "optim.clipvalue": _number(0.0, above=True),
        "optim.global_clipnorm": _number(0.0, above=True),
        "decoder.initializer": _initializer,
        "averaging.decay": _share,
        "monitor.epsilon": _radius,
        "monitor.step_size": _number(0.0, above=True),
        "monitor.num_steps": _count(),
        "monitor.gap": _share,
        "monitor.action": _one_of(*ACTIONS),
    },
}


def check_fields(package: str, fields: Mapping[str, Any]) -> None:
    """Refuses values of arguments by their names, None among them.

    Args:
        package: A sub-package of `ib_keras`, such as "objectives".
        fields: Name -> value; names without a check are passed over.

    Raises:
        UserError: If there is one.
    """
    for name, value in fields.items():
        if name in CHECKS[package]:
            CHECKS[package][name](name, value)


def check(
    package: str,
    config: Mapping[str, Any],
    parameters: Iterable[inspect.Parameter] = (),
) -> None:
    """Refuses values that no part of a package takes for an argument.

    Args:
        package: A sub-package of `ib_keras`, such as "attacks".
        config: The section of one of its own parts.
        parameters: Of the part's `build`.

    Raises:
        UserError: If there is one.
    """
    checks = CHECKS.get(package, {})
    others = {
        p.name
        for p in parameters
        if p.name in checks
        and isinstance(p.default, str | int | float)
        and _is_refused(checks[p.name], p.name, p.default)
    }
    for name, is_right in checks.items():
        if config.get(name) is not None and name not in others:
            is_right(name, config[name])


def _is_refused(is_right, name, value) -> bool:
    try:
        is_right(name, value)
    except UserError:
        return True
    return False
