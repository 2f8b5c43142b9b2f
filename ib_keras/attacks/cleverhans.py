"""Attacks of cleverhans behind our interface, for use in any protocol.

Each run is one step that calls the library from clean image to final image, so
only the final image counts; the judge decides on it as on any other. The
library runs eagerly and draws from TensorFlow's global generator, which is
seeded here from the run's own seeds.

References:
    Papernot et al., "Technical report on the CleverHans v2.1.0 adversarial
    examples library", 2018 (cleverhans 4.0.0, tf2).
"""

import importlib
import inspect
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds as seeds_lib
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name


class State(NamedTuple):
    """See `base.Attack`."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor


def _function(file: str, name: str):
    """Finds a function of cleverhans, which is an optional requirement."""
    try:
        module = importlib.import_module(f"cleverhans.tf2.attacks.{file}")
    except ImportError as error:
        raise UserError(
            "cleverhans is not installed",
            received=str(error),
            expected="cleverhans 4.0.0",
            fix="pip install cleverhans==4.0.0",
        ) from error
    return getattr(module, name)


def _fgm(model, ball, labels, arguments):
    attack = _function("fast_gradient_method", "fast_gradient_method")
    return attack(
        model,
        ball.clean,
        _epsilon(ball),
        _order(ball),
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        **arguments,
    )


def _iterative(module):
    def run(model, ball, labels, arguments):
        epsilon = _epsilon(ball)
        # The library's PGD refuses steps that are longer than the radius.
        step = min(arguments["eps_iter"], epsilon)
        return _function(module, module)(
            model,
            ball.clean,
            eps=epsilon,
            norm=_order(ball),
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            **{**arguments, "eps_iter": step},
        )

    return run


def _spsa(model, ball, labels, arguments):
    attack = _function("spsa", "spsa")
    _mend_spsa(sys.modules[attack.__module__])
    if isinstance(ball, geometry.L2Ball):
        raise UserError(
            "cleverhans' SPSA has only one norm",
            received="norm l2",
            expected="norm linf",
            fix="Set threat_model.norm=linf or leave the stage out.",
        )
    found = []
    # The library takes one image per call.
    for image, label in zip(ball.clean, labels, strict=True):
        try:
            image = attack(
                model,
                image[None],
                label[None],
                eps=_epsilon(ball),
                clip_min=0.0,
                clip_max=1.0,
                **arguments,
            )[0]
        except tf.errors.InvalidArgumentError:
            # It asserts that its result is in the ball, which NaN never is: it
            # found nothing for this image.
            pass
        found.append(image)
    return tf.stack(found)


def _carlini_wagner_l2(model, ball, labels, arguments):
    # The library takes labels as targets to reach, for any `targeted`;
    # without them it moves away from the model's own prediction, which for
    # the examples of the pool is the label.
    del labels
    shape = ball.clean.shape
    # The library gives its weights the shape of the images and multiplies
    # them by one number per example: that needs a last axis of 1.
    flat = tf.reshape(ball.clean, [shape[0], shape[1], -1, 1])
    attack = _function("carlini_wagner_l2", "CarliniWagnerL2")(
        lambda x: model(tf.reshape(x, [-1, *shape[1:]])),
        **arguments,
        batch_size=shape[0],
    )
    attack.optimizer = _VariablesAsMethod(attack.optimizer)
    return tf.reshape(tf.constant(attack.attack(flat)), shape)


class _VariablesAsMethod:
    """An optimizer whose `variables` is called, as before Keras 3.

    The library sets them all to zero between its searches; in Keras 3 the
    learning rate is one of them, and must not be among those.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.apply_gradients = optimizer.apply_gradients

    def variables(self):
        return [
            variable.value
            for variable in self._optimizer.variables
            if not variable.path.endswith("learning_rate")
        ]


def _mend_spsa(module) -> None:
    """Gives the library's optimizer the argument names of Keras 3.

    It passes `lr`, which Keras 3 refuses, and then reads `self.lr`.
    """
    if getattr(module.SPSAAdam, "is_mended", False):
        return
    adam = module.SPSAAdam.__mro__[1]

    class SPSAAdam(module.SPSAAdam):
        is_mended = True

        def __init__(self, lr, delta, num_samples, num_iters):
            adam.__init__(self, learning_rate=lr)
            self.lr = lr
            self._delta = delta
            self._num_samples = num_samples // 2
            self._num_iters = num_iters

    module.SPSAAdam = SPSAAdam


# Method -> module and name in the library, how it is called, its default
# arguments, and how many gradients one image costs with given arguments.
_METHODS = {
    "fgm": (
        ("fast_gradient_method", "fast_gradient_method"),
        _fgm,
        {},
        lambda a: 1,
    ),
    "pgd": (
        ("projected_gradient_descent", "projected_gradient_descent"),
        _iterative("projected_gradient_descent"),
        {"nb_iter": 40, "eps_iter": 0.01},
        lambda a: a["nb_iter"],
    ),
    "mim": (
        ("momentum_iterative_method", "momentum_iterative_method"),
        _iterative("momentum_iterative_method"),
        {"nb_iter": 40, "eps_iter": 0.01},
        lambda a: a["nb_iter"],
    ),
    "spsa": (
        ("spsa", "spsa"),
        _spsa,
        {"nb_iter": 40, "spsa_samples": 128},
        lambda a: 0,
    ),
    "carlini_wagner_l2": (
        ("carlini_wagner_l2", "CarliniWagnerL2"),
        _carlini_wagner_l2,
        {
            "max_iterations": 200,
            "binary_search_steps": 5,
            # Else the number of gradients is not known.
            "abort_early": False,
        },
        lambda a: a["max_iterations"] * a["binary_search_steps"],
    ),
}

# Arguments that the threat model, the batch and the labels determine.
_GIVEN = (
    *("self", "model_fn", "x", "y", "targeted", "eps", "norm"),
    *("clip_min", "clip_max", "batch_size"),
)


def _epsilon(ball) -> float:
    return float(ball.epsilon[0])


def _order(ball):
    return 2 if isinstance(ball, geometry.L2Ball) else np.inf


class CleverHans(base.GradientAttack):
    """One whole run of a cleverhans attack as a single step.

    Args:
        method: "fgm", "pgd", "mim", "spsa" or "carlini_wagner_l2".
        arguments: Passed to the library's function.
    """

    num_steps = 1
    runs_eagerly = True

    def __init__(self, method, arguments):
        _, self._run, defaults, count = _METHODS[method]
        self._arguments = {**defaults, **arguments}
        self._is_random = method == "spsa" or bool(arguments.get("rand_init"))
        self.gradients_per_step = count(self._arguments)
        self._seed = tf.Variable([0, 0], dtype=tf.int32, trainable=False)
        self._model = (None, None)

    def _model_of(self, logits_fn):
        # The library traces again for every new function object.
        if self._model[0] is not logits_fn:
            self._model = (logits_fn, lambda x: logits_fn(x, self._seed))
        return self._model[1]

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Stores the inputs of the one step."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        return State(images, base.not_evaluated(images), ball, labels, seeds)

    def step(self, logits_fn, state, iteration):
        """Runs the library's attack from the clean images."""
        seed = base.model_seed(state.seeds, iteration)
        self._seed.assign(seed)
        if self._is_random:
            # They draw from TensorFlow's global generator. Seeding it makes
            # TensorFlow prepare every compiled function again.
            tf.random.set_seed(int(seeds_lib.fold(seed, 1)[0]) % 2**31)
        found = self._run(
            self._model_of(logits_fn), state.ball, state.labels, self._arguments
        )
        images = state.ball.project(tf.cast(found, tf.float32))
        return state._replace(images=images)


def build(method="pgd", **arguments) -> CleverHans:
    """Builds an attack of cleverhans from a config section.

    Args:
        method: "fgm", "pgd", "mim", "spsa" or "carlini_wagner_l2".
        **arguments: Arguments of the library's function, such as `nb_iter`.

    Raises:
        UserError: If the method or one of its arguments is unknown, or
            cleverhans is not installed.
    """
    if method not in _METHODS:
        raise unknown_name(
            "method of cleverhans", method, _METHODS, "Set method to it."
        )
    parameters = inspect.signature(_function(*_METHODS[method][0])).parameters
    valid = set(parameters) - set(_GIVEN)
    for key in arguments:
        if key not in valid:
            raise unknown_name(
                f"argument of cleverhans' {method}",
                key,
                valid,
                "Correct or remove the field.",
            )
    return CleverHans(method, arguments)
