import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras.bottlenecks import ceb
from ib_keras.errors import UserError
from tests.support import models


def values(function, steps):
    return [float(function(tf.constant(step))) for step in steps]


@pytest.mark.parametrize(
    ("rho", "weight"),
    [(0.0, 1.0), (2.0, 0.135_335_28), (5.0, 0.006_737_947), (-1.0, np.e)],
)
def test_the_weight_is_exp_of_minus_rho(rho, weight):
    bottleneck = ceb.build(10, 49, rho=rho)
    assert values(bottleneck.weight, [0, 10**6]) == pytest.approx(
        [weight] * 2, rel=1e-6
    )


def test_rho_goes_from_100_to_its_target_in_4_epochs():
    bottleneck = ceb.build(10, 49, rho=2.0, anneal_epochs=4)
    steps = [0, 98, 194, 196, 10**6]
    rho = [100.0, 51.0, 3.0, 2.0, 2.0]
    assert values(bottleneck.control_value, steps) == pytest.approx(rho)
    weight = values(bottleneck.weight, steps)
    assert weight[2:] == pytest.approx(
        [0.049_787_07, 0.135_335_28, 0.135_335_28], rel=1e-5
    )
    # exp(-51), and a number that float32 may or may not hold.
    assert weight[1] == pytest.approx(7.095_474e-23, rel=1e-4)
    assert 0 <= weight[0] < 1e-43
    assert bottleneck.control == "rho"


def test_all_arguments_come_back_from_the_config():
    bottleneck = ceb.CEB(
        7,
        4,
        rho=1.5,
        anneal_steps=11,
        initial_rho=20.0,
        rate_estimator="closed_form",
        name="other",
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(bottleneck)
    )
    assert again.get_config() == bottleneck.get_config()
    steps = [0, 5, 20]
    assert values(again.weight, steps) == values(bottleneck.weight, steps)
    assert again.marginal.num_classes == 4
    assert again.latent_dim == again.marginal.latent_dim == 7


def test_the_marginal_has_a_mean_per_class():
    keras.utils.set_random_seed(0)
    bottleneck = ceb.build(10, 49)
    bottleneck.build((None, 1024))
    shapes = [weight.shape for weight in bottleneck.weights]
    assert shapes == [(1024, 256), (256,), (10, 256)]
    # Glorot uniform of a layer from 10 one-hot labels to 256 latents.
    means = models.weights_of(bottleneck)[2]
    limit = np.sqrt(6 / (10 + 256))
    assert 0.99 < np.abs(means).max() / limit < 1.000_001


@pytest.mark.parametrize("rho", [float("nan"), float("inf")])
def test_a_rho_that_is_no_number_is_refused(rho):
    with pytest.raises(UserError, match=f"rho={rho}"):
        ceb.build(10, 49, rho=rho)
