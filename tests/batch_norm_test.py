"""The fused layer is Keras' own, by another kernel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras.batch_norm import FusedBatchNormalization
from tests.support import models
from tpu_check import ops

SHAPE = (6, 5, 4, 3)
COUNT = 6 * 5 * 4
FLOAT32 = np.finfo(np.float32).eps
# Of a number with eight bits of mantissa, the hidden one among them.
BFLOAT16 = 2.0**-8
EPSILON = {"float32": FLOAT32, "bfloat16": BFLOAT16}
POLICY = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def batch(dtype="float32", seed=0, shape=SHAPE):
    """Images whose channels differ in mean and in deviation."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=shape) * [0.5, 1.0, 2.0] + [-1.0, 0.0, 2.0]
    return tf.cast(tf.constant(images, tf.float32), dtype)


def layer(kind, dtype="float32", **arguments):
    """A layer whose every weight has a value that a bug cannot hide behind."""
    made = kind(momentum=0.9, epsilon=1e-5, dtype=POLICY[dtype], **arguments)
    made.build((None, *SHAPE[1:]))
    values = {
        "gamma": [0.5, 1.5, -2.0],
        "beta": [0.1, -0.2, 0.3],
        "moving_mean": [1.0, -1.0, 0.5],
        "moving_variance": [0.5, 2.0, 1.5],
    }
    for weight in made.weights:
        weight.assign(values[weight.name])
    return made


def pair(dtype="float32", **arguments):
    """The layer, and Keras' own with the same weights."""
    kinds = (FusedBatchNormalization, keras.layers.BatchNormalization)
    return [layer(kind, dtype, **arguments) for kind in kinds]


def trained(layer, images, jit_compile=False):
    """Outputs of a training step, and gradients of images, gamma and beta."""
    weights = np.random.default_rng(1).normal(size=images.shape)
    weights = tf.constant(weights, tf.float32)

    @tf.function(jit_compile=jit_compile)
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            total = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
        wanted = [images, layer.gamma.value, layer.beta.value]
        return outputs, tape.gradient(total, wanted)

    outputs, gradients = step(images)
    found = {"outputs": outputs}
    found |= zip(("images", "gamma", "beta"), gradients, strict=True)
    return {name: tf.cast(t, tf.float32).numpy() for name, t in found.items()}


def moving(layer):
    return [w.numpy() for w in layer.non_trainable_weights]


def numpy_step(images):
    """Outputs and statistics of a training step, in float64."""
    x = np.float64(tf.cast(images, tf.float32).numpy())
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    gamma, beta = np.array([0.5, 1.5, -2.0]), np.array([0.1, -0.2, 0.3])
    statistics = [
        0.9 * np.array([1.0, -1.0, 0.5]) + 0.1 * mean,
        0.9 * np.array([0.5, 2.0, 1.5]) + 0.1 * variance,
    ]
    return normal * gamma + beta, statistics


def assert_close(received, expected, dtype, num_terms=COUNT):
    """Up to rounding: of sums of so many terms, and of the type stored.

    A sum in float32 of n terms is off by at most n epsilon of the sum of their
    magnitudes, which is some ten times the largest result here. What is stored
    in bfloat16 is off by half an epsilon of its own more; Keras stores it once
    and the kernel once, so one epsilon of the value lies between them.
    """
    for name, array in expected.items():
        scale = np.abs(array).max()
        atol = 10 * num_terms * FLOAT32 * scale
        rtol = 0.0
        if name in ("outputs", "images"):
            rtol = 2 * EPSILON[dtype]
        np.testing.assert_allclose(
            received[name], array, rtol=rtol, atol=atol, err_msg=name
        )


# Training.


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_training_step_is_that_of_keras(dtype, jit_compile):
    ours, theirs = pair(dtype)
    images = batch(dtype)
    received = trained(ours, images, jit_compile)
    expected = trained(theirs, images)
    assert_close(received, expected, dtype)
    for own, other in zip(moving(ours), moving(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=10 * COUNT * FLOAT32)
    outputs, statistics = numpy_step(images)
    assert_close(received, {"outputs": outputs}, dtype)
    for own, other in zip(moving(ours), statistics, strict=True):
        np.testing.assert_allclose(own, other, rtol=10 * COUNT * FLOAT32)


@pytest.mark.parametrize("dtype", EPSILON)
def test_types_are_those_of_keras(dtype):
    for made in pair(dtype):
        for training in (False, True):
            outputs = made(batch(dtype), training=training)
            assert outputs.dtype == dtype
        assert {weight.dtype for weight in made.weights} == {"float32"}


def test_many_steps_do_not_drift_apart():
    ours, theirs = pair()
    for step in range(30):
        images = batch(seed=step)
        for made in (ours, theirs):
            made(images, training=True)
    for own, other in zip(moving(ours), moving(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=30 * COUNT * FLOAT32)


def test_a_batch_of_one_pixel_has_no_variance():
    """Where the variance of a sample is 0/0; what remains is beta."""
    ours, theirs = pair()
    images = batch(shape=(1, 1, 1, 3))
    outputs = ours(images, training=True)
    theirs(images, training=True)
    np.testing.assert_array_equal(np.ravel(outputs), ours.beta.numpy())
    for own, other in zip(moving(ours), moving(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


# All else is Keras' own code.


@pytest.mark.parametrize("dtype", EPSILON)
def test_inference_is_that_of_keras_bit_for_bit(dtype):
    ours, theirs = pair(dtype)
    images = batch(dtype)
    before = moving(ours)
    own, other = (
        tf.cast(made(images, training=False), tf.float32).numpy()
        for made in (ours, theirs)
    )
    assert own.tobytes() == other.tobytes()
    for after, value in zip(moving(ours), before, strict=True):
        np.testing.assert_array_equal(after, value)


def test_a_frozen_layer_keeps_its_statistics():
    ours, theirs = pair()
    images = batch()
    for made in (ours, theirs):
        made.trainable = False
    before = moving(ours)
    frozen = ours(images, training=True)
    np.testing.assert_array_equal(frozen, theirs(images, training=True))
    np.testing.assert_array_equal(frozen, ours(images, training=False))
    for after, value in zip(moving(ours), before, strict=True):
        np.testing.assert_array_equal(after, value)


@pytest.mark.parametrize(
    "arguments",
    [{"axis": 1}, {"scale": False}, {"center": False}, {"renorm": True}],
    ids=str,
)
def test_what_the_kernel_is_not_made_for_is_left_to_keras(arguments):
    made = [
        kind(momentum=0.9, epsilon=1e-5, **arguments)
        for kind in (FusedBatchNormalization, keras.layers.BatchNormalization)
    ]
    images = batch()
    ours, theirs = (m(images, training=True).numpy() for m in made)
    np.testing.assert_array_equal(ours, theirs)
    for own, other in zip(*map(moving, made), strict=True):
        np.testing.assert_array_equal(own, other)


def test_rows_of_features_are_left_to_keras():
    """The kernel takes images alone; Keras' layer takes any rank."""
    kinds = (FusedBatchNormalization, keras.layers.BatchNormalization)
    rows = tf.reshape(batch(), [-1, 3])
    ours, theirs = (kind()(rows, training=True).numpy() for kind in kinds)
    np.testing.assert_array_equal(ours, theirs)


def test_a_saved_model_comes_back(tmp_path):
    images = batch()
    model = keras.Sequential(
        [keras.Input(SHAPE[1:]), layer(FusedBatchNormalization)]
    )
    model(images, training=True)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded.layers[-1]) is FusedBatchNormalization
    for training in (False, True):  # The second one changes the statistics.
        received = loaded(images, training=training)
        expected = model(images, training=training)
        np.testing.assert_array_equal(received, expected)
    for own, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(own.numpy(), other.numpy())


def test_two_replicas_normalise_by_the_whole_batch():
    images = batch()
    one = layer(FusedBatchNormalization)
    expected = trained(one, images)["outputs"]
    strategy = models.two_devices()
    with strategy.scope():
        two = layer(FusedBatchNormalization, synchronized=True)
    halves = tf.split(images, 2)

    @tf.function
    def step(images):
        return strategy.run(lambda x: two(x, training=True), args=(images,))

    parts = strategy.experimental_distribute_values_from_function(
        lambda context: halves[context.replica_id_in_sync_group]
    )
    received = strategy.experimental_local_results(step(parts))
    received = np.concatenate([part.numpy() for part in received])
    assert_close({"outputs": received}, {"outputs": expected}, "float32")
    for own, other in zip(moving(two), moving(one), strict=True):
        np.testing.assert_allclose(own, other, rtol=10 * COUNT * FLOAT32)


def test_inference_has_second_order_gradients():
    """As penalties on gradients need them; f(x) = (a x + b)^3 by hand."""
    made = layer(FusedBatchNormalization)
    images = batch()
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            outputs = made(images, training=False)
            total = tf.reduce_sum(outputs**3)
        first = inner.gradient(total, images)
    second = outer.gradient(first, images)
    slope = np.array([0.5, 1.5, -2.0])
    slope = slope / np.sqrt(np.array([0.5, 2.0, 1.5]) + 1e-5)
    np.testing.assert_allclose(first, 3 * outputs**2 * slope, rtol=1e-5)
    np.testing.assert_allclose(second, 6 * outputs * slope**2, rtol=1e-5)


# On a TPU.


@pytest.mark.parametrize("dtype", EPSILON)
def test_a_training_step_has_tpu_kernels(dtype):
    made = layer(FusedBatchNormalization, dtype)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = made(images, training=True)
        wanted = [images, made.gamma.value, made.beta.value]
        return tape.gradient(outputs, wanted)

    graph = step.get_concrete_function(tf.TensorSpec(SHAPE, dtype)).graph
    used = {
        node.op: tf.as_dtype(node.attr["T"].type).name
        for node in graph.as_graph_def().node
        if node.op.startswith("FusedBatchNorm")
    }
    assert used == {"FusedBatchNormV3": dtype, "FusedBatchNormGradV3": dtype}
    assert not ops.unsupported(graph)
