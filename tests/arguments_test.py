"""What is said of arguments without their parts is what the parts say."""

import inspect

import keras
import pytest

from ib_keras import arguments
from ib_keras import classifier
from ib_keras import plugins
from ib_keras.attacks import losses
from ib_keras.attacks import multi_targeted
from ib_keras.errors import UserError


def test_the_names_are_those_of_the_parts():
    assert arguments.LOSSES == tuple(losses.LOSSES)
    assert arguments.TARGETED_LOSSES == tuple(losses.TARGETED_LOSSES)
    assert arguments.SCHEDULES == tuple(multi_targeted.SCHEDULES)
    assert arguments.PRECISIONS == tuple(classifier.PRECISIONS)


def _is_refused(name):
    try:
        arguments.check("training", {"decoder.initializer": name})
    except UserError:
        return True
    return False


def test_the_initializers_are_those_of_keras():
    """Of the names that Keras has, those that make a dense layer's kernel."""
    names = {
        name
        for name, value in vars(keras.initializers).items()
        if inspect.isclass(value)
    }
    assert names >= set(arguments.INITIALIZERS)
    for name in (*names, "normal", "uniform", "one", "zero"):
        try:
            keras.initializers.get(name)((4, 3))
        except (KeyError, NotImplementedError, ValueError):
            assert _is_refused(name), name
        else:
            assert not _is_refused(name), name
    with pytest.raises(UserError, match='Did you mean "glorot_'):
        arguments.check("training", {"decoder.initializer": "glorot"})


@pytest.mark.parametrize("package", ["attacks", "bottlenecks", "encoders"])
def test_every_argument_is_one_of_a_part(package):
    taken = {
        parameter.name
        for name in plugins.names(package)
        for parameter in plugins.parameters(package, name)
    }
    assert set(arguments.CHECKS[package]) <= taken


@pytest.mark.parametrize("package", ["attacks", "bottlenecks", "encoders"])
def test_the_defaults_of_all_parts_pass(package):
    for name in plugins.names(package):
        parameters = inspect.signature(plugins.load(package, name).build)
        defaults = {
            key: parameter.default
            for key, parameter in parameters.parameters.items()
            if parameter.default is not parameter.empty
        }
        arguments.check(package, defaults)


@pytest.mark.parametrize(
    ("package", "section"),
    [
        ("attacks", {"num_steps": 2.5}),
        ("attacks", {"num_targets": -1}),
        ("attacks", {"loss": "CE"}),
        ("attacks", {"step_size": 0.0}),
        ("attacks", {"step_size": float("nan")}),
        ("bottlenecks", {"latent_dim": 0}),
        ("bottlenecks", {"rho": float("inf")}),
        ("encoders", {"hidden_units": (8, 0)}),
        ("training", {"averaging.decay": 1.0}),
    ],
)
def test_what_no_part_takes_is_refused(package, section):
    with pytest.raises(UserError):
        arguments.check(package, section)


def test_a_part_with_another_meaning_of_a_word_is_left_alone():
    """A new attack has a loss of its own, and no line in `arguments`."""

    def build(loss="kl_divergence", num_steps=10):
        return loss, num_steps

    parameters = inspect.signature(build).parameters.values()
    arguments.check("attacks", {"loss": "jensen_shannon"}, parameters)
    with pytest.raises(UserError):
        arguments.check("attacks", {"num_steps": 0}, parameters)
