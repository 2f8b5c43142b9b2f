"""Each operation's bounds hold wherever one looks, and rounding is counted.

The oracle is the model itself, in float32, at thousands of images of the ball:
corners, edges and inner points. No bound may be exceeded, by any tensor.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.certify import activations
from ib_keras.certify import operations
from ib_keras.certify.bounds import Bounds
from ib_keras.certify.graph import NotCovered
from ib_keras.certify.graph import read
from ib_keras.certify.values import Value

RNG = np.random.default_rng(0)
SHAPE = (4, 4, 2)


def weights(*shape, scale=0.5):
    return tf.constant(RNG.normal(size=shape) * scale, tf.float32)


def raw(op, **arguments):
    return lambda x: getattr(tf.raw_ops, op)(**{**arguments, "x": x})


def flat(x):
    return tf.reshape(x, [-1, 32])


def dense(x):
    """Numbers of both signs that depend on the whole image."""
    return tf.matmul(flat(x) - 0.5, KERNEL)


def batch_norm(x):
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.constant([1.5, -0.5]),
        offset=tf.constant([0.1, 0.2]),
        mean=tf.constant([0.4, 0.6]),
        variance=tf.constant([0.3, 0.01]),
        is_training=False,
    ).y


def covariance(x):
    """A positive definite matrix whose entries depend on the image."""
    spread = tf.einsum("bk,kij->bij", tf.square(dense(x)), PRODUCTS)
    return spread + 40 * tf.eye(3)


KERNEL = weights(32, 6)
FACTORS = weights(6, 3)
PRODUCTS = FACTORS[:, :, None] * FACTORS[:, None, :]
BLOCK = [[0, 0], [1, 1], [0, 2], [0, 0]]

# A small function of an image that has the operation in it.
EXAMPLES = {
    "Abs": lambda x: tf.abs(dense(x)),
    "Add": lambda x: tf.raw_ops.Add(x=dense(x), y=weights(6)),
    "AddN": lambda x: tf.add_n([dense(x), dense(2 * x), tf.abs(dense(x))]),
    "AddV2": lambda x: dense(x) + tf.nn.relu(dense(x)) + weights(6),
    "AvgPool": lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"),
    "BatchMatMulV2": lambda x: tf.raw_ops.BatchMatMulV2(
        x=x[..., 0], y=weights(1, 4, 3)
    ),
    "BatchMatMulV3": lambda x: tf.raw_ops.BatchMatMulV3(
        x=x[..., 0], y=weights(1, 4, 3), Tout=tf.float32
    ),
    "BatchToSpaceND": lambda x: tf.batch_to_space(
        tf.tile(x, [4, 1, 1, 1]), [2, 2], [[0, 1], [1, 0]]
    ),
    "BiasAdd": lambda x: tf.nn.bias_add(dense(x), weights(6)),
    "BroadcastTo": lambda x: tf.broadcast_to(x, [3, *SHAPE]),
    "Cast": lambda x: tf.cast(tf.cast(dense(x), tf.float64) / 3, tf.float32),
    "Cholesky": lambda x: tf.linalg.cholesky(covariance(x)),
    "ConcatV2": lambda x: tf.concat([x, -x, tf.ones_like(x)], 3),
    "Conv2D": lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 4), 2, "SAME"),
    "DepthToSpace": lambda x: tf.nn.depth_to_space(tf.tile(x, [1, 1, 1, 2]), 2),
    "DepthwiseConv2dNative": lambda x: tf.nn.depthwise_conv2d(
        x, weights(3, 3, 2, 2), [1, 1, 1, 1], "SAME"
    ),
    "Einsum": lambda x: tf.einsum("bhwc,hcd->bwd", x, weights(4, 2, 3)),
    "Elu": lambda x: tf.nn.elu(dense(x)),
    "EnsureShape": lambda x: tf.ensure_shape(x, [None, *SHAPE]),
    "Exp": lambda x: tf.exp(dense(x)),
    "ExpandDims": lambda x: tf.expand_dims(x, 2),
    "FusedBatchNormV3": batch_norm,
    "GatherV2": lambda x: tf.gather(x, [2, 0, 0], axis=1),
    "Identity": tf.identity,
    "IdentityN": lambda x: tf.raw_ops.IdentityN(input=[x, 2 * x])[1],
    "LeakyRelu": lambda x: tf.nn.leaky_relu(dense(x), 0.3),
    "Log": lambda x: tf.math.log(x + 0.1),
    "MatMul": dense,
    "MatrixDiagPartV3": lambda x: tf.linalg.diag_part(x[..., 0]),
    "Max": lambda x: tf.reduce_max(dense(x), axis=1),
    "MaxPool": lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"),
    "Maximum": lambda x: tf.maximum(dense(x), weights(6)),
    "Mean": lambda x: tf.reduce_mean(x, axis=[1, 2]),
    "Minimum": lambda x: tf.minimum(dense(x), 0.1),
    "MirrorPad": lambda x: tf.pad(x, BLOCK, "REFLECT"),
    "Mul": lambda x: dense(x) * tf.sigmoid(dense(x)) * weights(6),
    "Neg": lambda x: -dense(x),
    "Pack": lambda x: tf.stack([x, 2 * x], axis=1),
    "Pad": lambda x: tf.pad(x, BLOCK),
    "PadV2": lambda x: tf.pad(x, BLOCK, constant_values=0.7),
    "PreventGradient": lambda x: tf.raw_ops.PreventGradient(input=x),
    "RealDiv": lambda x: (x - 0.3) / tf.constant([0.2, -0.4]),
    "Relu": lambda x: tf.nn.relu(dense(tf.nn.relu(x - 0.4) - x)),
    "Relu6": lambda x: tf.nn.relu6(5 * dense(x)),
    "Reshape": flat,
    "ReverseV2": lambda x: tf.reverse(x, [1, 3]),
    "Roll": lambda x: tf.roll(x, 1, axis=2),
    "Selu": lambda x: tf.nn.selu(dense(x)),
    "Sigmoid": lambda x: tf.sigmoid(3 * dense(x)),
    "Slice": lambda x: tf.slice(x, [0, 1, 0, 0], [-1, 2, 3, 2]),
    "Snapshot": lambda x: tf.raw_ops.Snapshot(input=x),
    "Softplus": lambda x: tf.nn.softplus(dense(x) - 1),
    "SpaceToBatchND": lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [2, 0]]),
    "SpaceToDepth": lambda x: tf.nn.space_to_depth(x, 2),
    "Split": lambda x: tf.split(x, 2, axis=1)[1],
    "SplitV": lambda x: tf.split(x, [1, 3], axis=1)[1],
    "Sqrt": lambda x: tf.sqrt(x + 0.1),
    "Square": lambda x: tf.square(dense(x)),
    "Squeeze": lambda x: tf.squeeze(x[..., :1], 3),
    "StopGradient": tf.stop_gradient,
    "StridedSlice": lambda x: x[:, ::2, -1, None],
    "Sub": lambda x: 0.3 - dense(x) - (x[:, :3, 0, 0] @ weights(3, 6)),
    "Sum": lambda x: tf.reduce_sum(x, axis=[1, 3], keepdims=True),
    "Tanh": lambda x: tf.tanh(2 * dense(x)),
    "Tile": lambda x: tf.tile(x, [1, 2, 1, 1]),
    "Transpose": lambda x: tf.transpose(x, [0, 3, 1, 2]),
    "Unpack": lambda x: tf.unstack(x, axis=1)[2],
}


def ball(epsilon, seed=1):
    rng = np.random.default_rng(seed)
    at = rng.uniform(0.1, 0.9, (1, *SHAPE)).astype(np.float32)
    at[0, 0] = 0.0  # Cut by the box.
    low = np.maximum(at - epsilon, 0).astype(np.float32)
    high = np.minimum(at + epsilon, 1).astype(np.float32)
    return at, low, high


def points(low, high, count=200):
    """Images of the ball, half of them corners."""
    rng = np.random.default_rng(2)
    share = rng.random((count, *SHAPE))
    share[::2] = np.round(share[::2])
    inside = low + (high - low) * share
    return np.clip(inside, low, high).astype(np.float32)


# Those whose first axis is not the examples'.
ALONE = ("BatchToSpaceND", "BroadcastTo", "SpaceToBatchND")


def ask(op, logits, images):
    """Answers to images, one row each, as if each had been asked alone."""
    if op not in ALONE:
        return logits(images, None).numpy()[:, None]
    return np.stack([logits(x[None], None).numpy() for x in images])


@pytest.mark.parametrize("op", sorted(operations.TABLE))
def test_no_image_of_the_ball_leaves_the_bounds(op):
    function = EXAMPLES[op]

    def logits(images, seed):
        del seed
        RNG.bit_generator.state = STATE
        return function(tf.convert_to_tensor(images))

    graph = read(logits, SHAPE)
    assert op in {node.op for node in graph.nodes}
    bounds = Bounds(graph, graph.output)
    for epsilon in (0.02, 0.3):
        at, low, high = ball(epsilon)
        answers = ask(op, logits, points(low, high)).astype(np.float64)
        check(bounds, low, high, at, answers)
        values = bounds.forward(value(low, high, at), {}, {})
        middle = values[graph.output].at
        np.testing.assert_allclose(middle, logits(at, None), atol=1e-4)


def value(*parts):
    return Value(*(tf.constant(part, tf.float64) for part in parts))


def check(bounds, low, high, at, answers):
    """That bounds hold for what was seen, and are not far from it."""
    values = bounds.forward(value(low, high, at), {}, {})
    result = values[bounds.target]
    assert (answers >= result.low.numpy()).all()
    assert (answers <= result.high.numpy()).all()
    lines = [curve.name for curve in bounds.curves]
    for row in np.random.default_rng(3).normal(size=(3, *result.at.shape)):
        sums = (answers * row).sum(axis=tuple(range(1, answers.ndim)))
        given = (values, bounds.target, tf.constant(row))
        for through in ([], lines):
            least = float(bounds.backward(*given, through, {}))
            assert least <= sums.min() + 1e-9
            spread = np.abs(sums - sums.mean()).max() + 1e-3
            assert least > sums.min() - 100 * spread


STATE = RNG.bit_generator.state


def test_every_operation_has_an_example():
    assert set(EXAMPLES) == set(operations.TABLE)


FUNCTIONS = {
    "tanh": (tf.tanh, activations.TANH),
    "sigmoid": (tf.sigmoid, activations.SIGMOID),
    "softplus": (tf.nn.softplus, activations.SOFTPLUS),
    "exp": (tf.exp, activations.EXP),
    "elu": (tf.nn.elu, activations.elu()),
    "selu": (tf.nn.selu, activations.SELU),
    "log": (lambda x: tf.math.log(tf.abs(x)), activations.LOG),
    "sqrt": (lambda x: tf.sqrt(tf.abs(x)), activations.SQRT),
    "leaky_relu": (lambda x: tf.nn.leaky_relu(x, 0.2), activations.relu(0.2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("jit", [False, True])
def test_kernels_round_by_no_more_than_is_counted(name, jit):
    function, activation = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=30_000) * s for s in (1e-3, 1, 5, 25)])
    x = np.minimum(x, 80).astype(np.float32)
    found = tf.function(function, jit_compile=jit)(tf.constant(x)).numpy()
    given = np.abs(x) if name in ("log", "sqrt") else x
    exact = activation.value(tf.constant(given, tf.float64)).numpy()
    allowed = activation.relative * np.abs(exact) + activation.absolute
    error = np.abs(found - exact)
    assert (error <= allowed + np.finfo(np.float32).tiny).all()
    if activation.relative > 4 * activations.UNIT:
        assert error.max() > 0  # It is float32 that was measured.


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_of_any_slope_keep_their_side(name):
    activation = FUNCTIONS[name][1]
    rng = np.random.default_rng(4)
    low = rng.normal(size=300) * 2
    if name in ("log", "sqrt"):
        low = np.abs(low) + 1e-3
    high = low + rng.exponential(size=300) ** 2
    slope = rng.normal(size=300)
    slope[:2] = 0.0
    found = activation.offsets(*map(tf.constant, (slope, low, high)))
    least, most = (part.numpy() for part in found)
    for share in np.linspace(0, 1, 101):
        x = low + (high - low) * share
        gap = activation.value(tf.constant(x)).numpy() - slope * x
        assert (gap >= least - 1e-9).all()
        assert (gap <= most + 1e-9).all()


def test_what_rounding_can_do_is_not_called_certain():
    """Large numbers that cancel: float32 is wrong where arithmetic is not."""
    rng = np.random.default_rng(0)
    large = (rng.normal(size=[512, 1]) * 3e4).astype(np.float32)
    order = rng.permutation(512)

    def logits(images, seed):
        del seed
        x = tf.reshape(images, [-1, 512])
        # The same sum in another order, so the difference is 1e-3.
        first = tf.matmul(x, large)
        second = tf.matmul(tf.gather(x, order, axis=1), large[order])
        return tf.concat([first + 1e-3, second], axis=1)

    graph = read(logits, (16, 16, 2))
    bounds = Bounds(graph, graph.output)
    images = rng.random((500, 16, 16, 2)).astype(np.float32)
    seen = np.diff(logits(images, None), axis=1).max()
    assert seen > 0  # Class 1 won somewhere, by rounding.
    at = tf.constant(images[:1], tf.float64)
    values = bounds.forward(Value(at * 0, at * 0 + 1, at), {}, {})
    row = tf.constant([[1.0, -1.0]], tf.float64)
    exact = float(row[0, 0] * 1e-3)
    found = float(bounds.backward(values, graph.output, row, [], {}))
    assert found < -seen
    assert found > exact - 1e3  # And it is rounding alone that is taken off.


def test_overflow_has_no_bound():
    def logits(images, seed):
        del seed
        return tf.reshape(images, [-1, 32]) * 3e38 * 10.0

    graph = read(logits, SHAPE)
    bounds = Bounds(graph, graph.output)
    ones = tf.ones([1, *SHAPE], tf.float64)
    values = bounds.forward(Value(ones, ones, ones), {}, {})
    assert not math.isfinite(values[graph.output].low.numpy().max())


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: tf.round(dense(x)), "Round"),
        (lambda x: tf.cast(dense(x) > 0, tf.float32), "Cast|Greater"),
        (lambda x: dense(x) / tf.reduce_sum(x), "RealDiv"),
        (lambda x: tf.cast(tf.cast(x, tf.bfloat16), tf.float32), "bfloat16"),
        (lambda x: tf.matmul(x[..., 0], x[..., 1]), "BatchMatMul"),
        (lambda x: tf.zeros([1, 3]), "do not depend"),
        (lambda x: dense(x).numpy(), "cannot be read"),
        (
            lambda x: (
                tf.raw_ops.FusedBatchNormV3(
                    x=x,
                    scale=[1.0, 1.0],
                    offset=[0.0, 0.0],
                    mean=[],
                    variance=[],
                ).y
            ),
            "FusedBatchNormV3.*batch's statistics",
        ),
    ],
)
def test_what_has_no_bounds_is_named(function, says):
    def logits(images, seed):
        del seed
        return function(images)

    with pytest.raises(NotCovered, match=says):
        graph = read(logits, SHAPE)
        Bounds(graph, graph.output)
