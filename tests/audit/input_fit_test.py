"""No model is audited on images of other values than it was trained on.

Small networks on digits, each trained on one preprocessing: the audit finds
it, or asks. Wrong is neither.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import errors
from ib_keras.audit import audited_model
from ib_keras.audit.audited_model import selection
from ib_keras.audit.audited_model.io_spec import IOSpec
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from tests.support import foreign
from tests.support import marks
from tests.support import trained


@functools.cache
def network(scale, offset, seed=0):
    return trained.network(trained.NETWORKS["MLP"], scale, offset, seed)


def inferred(model):
    """The range that was found; None where the user is asked."""
    path = foreign.export(model)
    try:
        audited = audited_model.load(path).infer_io(*foreign.data())
    except errors.UserError as error:
        assert "--config.model." in error.fix
        return None
    return audited.describe()["preprocessing"]


@pytest.mark.parametrize(
    "name",
    marks.others_slow(
        trained.INPUTS,
        ("[0, 1]", "[0, 255]", "[-1, 1]", "own mean and deviation"),
    ),
)
def test_the_preprocessing_is_found_or_asked_for(name):
    scale, offset = trained.INPUTS[name]
    found = inferred(network(scale, offset))
    if found is not None:
        assert found["scale"] == pytest.approx([scale], rel=1e-3)
        assert found["offset"] == pytest.approx([offset], abs=1e-3)


def test_a_network_that_does_better_on_other_images_is_asked_about():
    """Trained on [0, 255] it is likelier on [0, 1], and another function."""
    scale, offset = trained.INPUTS["[0, 255]"]
    layers = trained.NETWORKS["MLP"]
    model = trained.network(layers, scale, offset, seed=0, num_classes=2)
    images, labels = foreign.data()
    right = [
        np.mean((model.predict(s * images, verbose=0)[:, 0] > 0) == labels % 2)
        for s in (1.0, scale)
    ]
    assert right[0] > right[1] - 0.01, "the case is gone: take another seed"
    audited = audited_model.load(foreign.export(model))
    with pytest.raises(errors.UserError, match="cannot be inferred"):
        audited.infer_io(images, labels % 2)


@pytest.mark.slow
def test_the_usual_one_is_found_as_a_rule():
    """Asking always would not do; never is another one taken."""
    found = [inferred(network(1.0, 0.0, seed)) for seed in range(4)]
    known = [each["scale"] for each in found if each is not None]
    assert known and all(scale == [1.0] for scale in known)


@pytest.mark.parametrize("factor", [0.01, 0.1, 30.0])
def test_a_factor_of_the_logits_changes_nothing(factor):
    """Logits that are too small rewarded [0, 255] once."""
    plain = network(1.0, 0.0)
    path = foreign.module(
        lambda x: plain(x) * factor, variables=plain.variables
    )
    try:
        audited = audited_model.load(path).infer_io(*foreign.data())
    except errors.UserError as error:
        assert "--config.model.input_range=0,1" in error.fix
    else:
        assert audited.describe()["input_range"] == [0.0, 1.0]


def test_a_fit_that_is_better_is_said_with_its_numbers():
    model = network(*trained.INPUTS["own mean and deviation"])
    path = foreign.export(model)
    with pytest.raises(errors.UserError) as caught:
        audited_model.load(path).infer_io(*foreign.data())
    assert "standard errors" in caught.value.received
    assert ".preprocessing.mean" in caught.value.fix


def labelled(count=400, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[count, classes])
    p = np.exp(selection.log_softmax(2.0 * x))
    labels = [rng.choice(classes, p=row) for row in p]
    return x, np.array(labels)


def test_the_temperature_is_that_of_the_labels():
    """Drawn at temperature 0.5; its error on 4,000 is some per cent."""
    x, labels = labelled(4000)
    found = selection.fit_temperature(x, labels)
    assert found == pytest.approx(0.5, rel=0.1)
    assert selection.fit_temperature(1e3 * x, labels) == pytest.approx(
        1e3 * found, rel=1e-3
    )


def linear_fit(start, true, count=1000, has_gradient=True):
    """A classifier of known input map, and images of two channels."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, [count, 2])
    bias = np.array([[0.0, 0.3, -0.4], [0.2, -0.5, 0.1]])

    def logits(given):
        bent = tf.math.tanh(given - 0.5)
        return 8.0 * tf.matmul(bent, tf.constant(bias))

    scale, offset = (np.array(v) for v in true)
    p = np.exp(selection.log_softmax(logits(x * scale + offset).numpy()))
    labels = np.array([rng.choice(3, p=row) for row in p])

    def evaluate(scale, offset, which):
        return logits(x[which] * scale + offset).numpy()

    def gradient(scale, offset, factor, which):
        given = [tf.constant(v) for v in (scale, offset, np.float64(factor))]
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = logits(x[which] * given[0] + given[1]) * given[2]
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels[which], values
                )
            )
        parts = tape.gradient(loss, given)
        return float(loss), *(part.numpy() for part in parts)

    gradient = gradient if has_gradient else None
    return selection.fit_affine(
        Preprocessing(*start), 2, evaluate, gradient, labels
    )


@pytest.mark.parametrize("has_gradient", [True, False])
def test_a_wrong_map_is_beaten_and_the_right_one_is_not(has_gradient):
    true = (3.0, 2.0), (-1.0, 0.5)
    right = linear_fit(true, true, has_gradient=has_gradient)
    assert not right.is_better
    wrong = linear_fit(
        ((1.0,), (0.0,)), true, count=3000, has_gradient=has_gradient
    )
    assert wrong.is_better
    assert wrong.gain > right.gain


def test_among_close_specifications_none_is_taken():
    x, labels = labelled()
    ways = [Preprocessing((1.0,), (-0.5,)), Preprocessing((2.0,), (-1.0,))]
    rng = np.random.default_rng(2)
    trials = [
        selection.Trial(
            IOSpec((2, 2, 1), preprocessing=way),
            selection.log_softmax(
                2.0 * x + rng.normal(scale=0.1, size=x.shape)
            ),
            labels,
        )
        for way in ways
    ]
    with pytest.raises(selection.Undecided) as caught:
        selection.choose(trials)
    assert "--config.model.input_range=-0.5,0.5" in caught.value.fix
    assert "--config.model.input_range=-1,1" in caught.value.fix
