"""Models in Python answer in many ways; each is attacked as what it is."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras.attacks import outputs
from ib_keras.audit import audited_model
from ib_keras.errors import UserError

# Three pixels whose difference decides between two classes.
WEIGHTS = np.array([[2.0], [-1.0], [0.5]], np.float32)


def score(images):
    return tf.matmul(tf.reshape(images, [-1, 3]) - 0.4, tf.constant(WEIGHTS))


def logits(images):
    return tf.concat([tf.zeros_like(score(images)), score(images)], axis=1)


def data(count=40):
    images = np.random.default_rng(0).uniform(0, 1, [count, 1, 3, 1])
    images = images.astype(np.float32)
    return images, (score(images).numpy()[:, 0] > 0).astype(np.int32)


def p(images):
    return tf.sigmoid(score(images))


SAME = {
    "logits": (logits, {}),
    "one logit": (lambda x: 3.0 * score(x), {}),
    "one sigmoid": (p, {"outputs": "probabilities"}),
    "one sigmoid, flat": (lambda x: p(x)[:, 0], {"outputs": "probabilities"}),
    "softmax": (
        lambda x: tf.nn.softmax(logits(x)),
        {"outputs": "probabilities"},
    ),
    "log-softmax": (lambda x: tf.nn.log_softmax(logits(x)), {}),
    "an axis between": (lambda x: logits(x)[:, None], {}),
    "a dict": (
        lambda x: {"z": tf.reshape(x, [-1, 3]), "logits": logits(x)},
        {"output": "logits"},
    ),
    "a tuple": (
        lambda x: (logits(x), tf.reshape(x, [-1, 3])),
        {"output": "0"},
    ),
}


@pytest.mark.parametrize(("model", "said"), SAME.values(), ids=SAME.keys())
def test_all_ways_are_the_same_attack(model, said):
    """FGS on a linear score breaks where |score| <= epsilon * |w|_1."""
    images, labels = data()
    epsilon = 0.08
    near = np.clip(
        images
        - epsilon
        * np.sign(WEIGHTS).reshape(1, 1, 3, 1)
        * np.where(labels, 1, -1)[:, None, None, None],
        0,
        1,
    ).astype(np.float32)
    expected = (score(near).numpy()[:, 0] > 0) == labels
    found = attacks.run(model, images, labels, "fgs", epsilon=epsilon, **said)
    np.testing.assert_array_equal(found.is_robust, expected)
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("name", ["one sigmoid", "softmax"])
def test_probabilities_handed_over_as_logits_are_noticed(name):
    images, labels = data()
    model = SAME[name][0]
    with pytest.warns(UserWarning, match="returns probabilities"):
        found = attacks.run(model, images, labels, "fgs", epsilon=0.08)
    said = attacks.run(
        model, images, labels, "fgs", epsilon=0.08, outputs="probabilities"
    )
    np.testing.assert_array_equal(found.is_robust, said.is_robust)


def test_several_outputs_are_asked_about():
    images, labels = data()

    def model(images):
        return {"a": logits(images), "b": -logits(images)}

    with pytest.raises(UserError, match="several outputs") as error:
        attacks.run(model, images, labels, "fgs", epsilon=0.1)
    assert "output='a'" in error.value.fix
    with pytest.raises(UserError, match='Did you mean "a"'):
        attacks.run(model, images, labels, "fgs", epsilon=0.1, output="aa")


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: tf.zeros([2, 3]),
        lambda x: tf.reshape(x, [-1, 1, 3, 1])[:, :, :, 0] + tf.zeros([2, 1]),
        lambda x: tf.zeros([tf.shape(x)[0], 3], tf.int32),
        lambda x: {},
    ],
)
def test_what_is_no_row_of_scores_is_refused(answer):
    images, labels = data()
    with pytest.raises(UserError, match="not one row of scores"):
        attacks.run(answer, images, labels, "fgs", epsilon=0.1)


@pytest.mark.parametrize(
    "leaves",
    [
        lambda x: tf.constant(logits(x).numpy()),
        lambda x: tf.constant(x.numpy().reshape(-1, 3)[:, :2]),
    ],
)
def test_a_model_that_leaves_tensorflow_is_named(leaves):
    images, labels = data()
    with pytest.raises(UserError, match="leaves TensorFlow") as error:
        attacks.run(leaves, images, labels, "fgs", epsilon=0.1)
    assert ".numpy()" in error.value.fix


def test_targets_of_functions_read_alike():
    images, labels = data()
    model = audited_model.from_function(
        SAME["a dict"][0], [1, 3, 1], 2, output="z"
    )
    with pytest.raises(UserError):
        model.infer_io(images, np.full(len(labels), 5))
    model = audited_model.from_function(
        SAME["a dict"][0], [1, 3, 1], 2, output="logits"
    ).infer_io(images, labels)
    found = model.logits_fn("mean")(tf.constant(images), tf.zeros([2], "int32"))
    np.testing.assert_allclose(found, logits(images), rtol=1e-6)


def test_the_kinds_are_those_of_the_commands():
    from ib_keras.audit.audited_model import options

    assert outputs.KINDS == options.KINDS


def test_a_logit_between_0_and_1_on_all_images_is_a_logit():
    """As of a binary classifier before its training, which a callback sees."""
    images, _ = data()
    small = lambda x: 0.1 * score(x) + 0.5  # noqa: E731
    assert 0 < small(images).numpy().min() < small(images).numpy().max() < 1
    _, _, kind = outputs.reader(small, images)
    assert kind == "logits"


@pytest.mark.parametrize(
    "leave",
    [lambda x: logits(x).numpy(), lambda x: {"z": logits(x).numpy()}],
    ids=["an array", "arrays by name"],
)
def test_arrays_have_no_gradient(leave):
    images, labels = data()
    with pytest.raises(UserError, match="no gradient.*ndarray"):
        attacks.run(leave, images, labels, "fgs", epsilon=0.1)


def test_a_batch_size_that_is_no_count_is_refused():
    with pytest.raises(UserError, match="batch_size is not a count"):
        attacks.run(logits, *data(), "fgs", epsilon=0.1, batch_size="8")
