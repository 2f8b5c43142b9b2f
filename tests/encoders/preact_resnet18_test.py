import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras.encoders import preact_resnet18

# By hand, from He et al. 2016 with the CIFAR stem. Convolutions have no bias;
# a batch normalisation of c channels has c scales and c offsets to train, and
# c means and c variances that move.
#   stem      3*3*3*64                                        =     1,728
#   64 wide   2 blocks of 2 * (128 + 3*3*64*64)                =   147,968
#   128 wide  128 + 3*3*64*128 + 256 + 3*3*128*128 + 64*128    =   229,760
#             2 * (256 + 3*3*128*128)                          =   295,424
#   256 wide  256 + 3*3*128*256 + 512 + 3*3*256*256 + 128*256  =   918,272
#             2 * (512 + 3*3*256*256)                          = 1,180,672
#   512 wide  512 + 3*3*256*512 + 1024 + 3*3*512*512 + 256*512 = 3,671,552
#             2 * (1024 + 3*3*512*512)                         = 4,720,640
#   last normalisation, before the pooling                     =     1,024
TRAINABLE_TRUNK = 11_167_040
# As many numbers move as the normalisations have to train:
#   2*2*128 + (128 + 3*256) + (256 + 3*512) + (512 + 3*1024) + 1024
MOVING = 7_808
# 512 * 1024 + 1024, and 1024 * 1024 + 1024.
MLP = 525_312 + 1_049_600


@pytest.fixture(scope="module")
def trunk():
    keras.utils.set_random_seed(0)
    return preact_resnet18.build((32, 32, 3), hidden_units=())


def count(weights) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def normalisations(model):
    return [x for x in model.layers if hasattr(x, "moving_variance")]


def kernels(model, size) -> list[np.ndarray]:
    return [
        weight.numpy()
        for weight in model.trainable_weights
        if len(weight.shape) == 4 and weight.shape[0] == size
    ]


def test_the_trunk_has_the_parameters_of_the_paper(trunk):
    assert count(trunk.trainable_weights) == TRAINABLE_TRUNK
    assert count(trunk.non_trainable_weights) == MOVING


def test_it_has_eighteen_layers(trunk):
    # The stem and two a block; the dense layer that makes it 18 is the MLP's
    # place. Three shortcuts are projected.
    assert len(kernels(trunk, 3)) == 17
    assert [k.shape for k in kernels(trunk, 1)] == [
        (1, 1, 64, 128),
        (1, 1, 128, 256),
        (1, 1, 256, 512),
    ]


def test_the_mlp_follows_the_pooled_features():
    model = preact_resnet18.build((32, 32, 3))
    assert count(model.trainable_weights) == TRAINABLE_TRUNK + MLP
    assert model.output_shape == (None, 1024)


def test_the_pooling_sees_an_eighth_of_the_resolution(trunk):
    (pooling,) = (x for x in trunk.layers if "pooling" in x.name)
    assert pooling.input.shape == (None, 4, 4, 512)
    assert trunk.output_shape == (None, 512)


def reference(model, images):
    """The published network, from the model's weights, in plain operations."""
    three, one = iter(kernels(model, 3)), iter(kernels(model, 1))
    norms = iter(normalisations(model))

    def convolve(x, kernel, stride=1):
        return tf.nn.conv2d(x, kernel, stride, "SAME")

    def activate(x):
        norm = next(norms)
        scale = norm.gamma / tf.sqrt(norm.moving_variance + 1e-5)
        return tf.nn.relu((x - norm.moving_mean) * scale + norm.beta)

    x = convolve(images, next(three))
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            active = activate(x)
            shortcut = convolve(active, next(one), 2) if stride == 2 else x
            hidden = activate(convolve(active, next(three), stride))
            x = shortcut + convolve(hidden, next(three))
    features = tf.reduce_mean(activate(x), axis=[1, 2])
    for iterator in (three, one, norms):
        assert next(iterator, None) is None
    return features


def test_the_trunk_computes_the_published_network():
    keras.utils.set_random_seed(1)
    model = preact_resnet18.build((16, 16, 3), hidden_units=())
    rng = np.random.default_rng(1)
    for norm in normalisations(model):
        for weight, low, high in (
            (norm.gamma, 0.5, 1.5),
            (norm.beta, -0.5, 0.5),
            (norm.moving_mean, -0.5, 0.5),
            (norm.moving_variance, 0.5, 1.5),
        ):
            weight.assign(rng.uniform(low, high, weight.shape))
    images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
    features = model(images, training=False)
    expected = reference(model, tf.constant(images)).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(
        features, expected, rtol=1e-3, atol=1e-4 * expected.max()
    )


def test_the_kernels_start_by_glorot(trunk):
    for kernel in kernels(trunk, 3) + kernels(trunk, 1):
        area = kernel.shape[0] * kernel.shape[1]
        limit = np.sqrt(6 / (area * (kernel.shape[2] + kernel.shape[3])))
        assert 0.99 < np.abs(kernel).max() / limit < 1.000_001


def test_batch_statistics_move_by_a_tenth(trunk):
    norm = normalisations(trunk)[0]
    assert norm.momentum == pytest.approx(0.9)
    assert norm.epsilon == pytest.approx(1e-5)
