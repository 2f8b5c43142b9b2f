import keras
import numpy as np

from ib_keras.encoders import mlp
from tests.support import models


def test_the_features_are_two_relu_layers_of_the_pixels():
    encoder = models.randomise(mlp.build((4, 4, 1), hidden_units=(9, 5)))
    images, _ = models.data(6)
    hidden = images.reshape(6, 16).astype(np.float64)
    kernels = models.weights_of(encoder)
    for kernel, bias in (kernels[:2], kernels[2:]):
        hidden = np.maximum(hidden @ kernel + bias, 0)
    features = encoder(images).numpy()
    np.testing.assert_allclose(features, hidden, rtol=1e-5, atol=1e-5)
    # Both sides of the ReLU are seen.
    assert 0 < np.mean(features == 0) < 1


def test_the_paper_s_widths_are_the_default():
    encoder = mlp.build((28, 28, 1))
    # 784 * 1024 + 1024, and 1024 * 1024 + 1024.
    assert encoder.count_params() == 803_840 + 1_049_600


def test_the_weights_start_by_glorot_and_the_biases_at_zero():
    keras.utils.set_random_seed(0)
    encoder = mlp.build((12, 12, 1), hidden_units=(144, 80))
    for kernel, bias in zip(
        *[iter(models.weights_of(encoder))] * 2, strict=True
    ):
        limit = np.sqrt(6 / sum(kernel.shape))
        assert 0.99 < np.abs(kernel).max() / limit < 1.000_001
        # The mean square of uniform numbers is a third of the limit's square;
        # its standard error sqrt(4/45) of it, over the root of their number.
        error = limit**2 * np.sqrt(4 / 45 / kernel.size)
        assert abs(np.mean(kernel**2) - limit**2 / 3) < 5 * error
        assert not bias.any()


def test_widths_may_be_a_list_as_json_has_it():
    assert mlp.build([2, 2, 1], hidden_units=[3]).output_shape == (None, 3)
