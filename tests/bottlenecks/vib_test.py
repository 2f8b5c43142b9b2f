import keras
import pytest
import tensorflow as tf

from ib_keras.bottlenecks import vib
from tests.support import models


def weights(bottleneck, steps):
    return [float(bottleneck.weight(tf.constant(step))) for step in steps]


def test_beta_is_constant_where_nothing_is_annealed():
    bottleneck = vib.build(10, 600, beta=0.01)
    assert weights(bottleneck, [0, 1, 10**6]) == pytest.approx([0.01] * 3)


def test_beta_goes_from_1e_8_to_its_target_in_100_epochs():
    bottleneck = vib.build(10, 49, beta=0.01, anneal_epochs=100)
    assert weights(bottleneck, [0, 2450, 4900, 49_000]) == pytest.approx(
        [1e-8, 0.005_000_005, 0.01, 0.01], rel=1e-5
    )


def test_beta_may_go_by_equal_factors():
    bottleneck = vib.build(
        10, 49, beta=0.01, anneal_epochs=100, anneal_shape="geometric"
    )
    assert weights(bottleneck, [0, 2450, 4900, 49_000]) == pytest.approx(
        [1e-8, 1e-5, 0.01, 0.01], rel=1e-5
    )


def test_the_control_is_beta_itself():
    bottleneck = vib.build(10, 2, beta=0.25)
    assert bottleneck.control == "beta"
    assert float(bottleneck.control_value(tf.constant(3))) == 0.25


def test_annealing_may_take_a_part_of_an_epoch():
    assert vib.build(10, 49, anneal_epochs=0.5).anneal_steps == 24


def test_all_arguments_come_back_from_the_config():
    bottleneck = vib.VIB(
        7,
        beta=0.5,
        anneal_steps=11,
        initial_beta=1e-3,
        anneal_shape="geometric",
        scale_shift=-1.0,
        rate_estimator="closed_form",
        name="other",
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(bottleneck)
    )
    assert again.get_config() == bottleneck.get_config()
    assert weights(again, [0, 5, 20]) == weights(bottleneck, [0, 5, 20])
    assert again.posterior.scale_shift == -1.0
    assert again.latent_dim == again.posterior.latent_dim == 7
    assert again.rate_estimator == "closed_form"


@pytest.mark.parametrize("beta", [-0.1, float("nan")])
def test_a_beta_below_zero_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta}"):
        vib.VIB(7, beta=beta)


def test_the_head_is_twice_as_wide_as_the_bottleneck():
    bottleneck = vib.build(10, 600)
    bottleneck.build((None, 1024))
    shapes = [weight.shape for weight in bottleneck.weights]
    assert shapes == [(1024, 512), (512,)]
    assert models.weights_of(bottleneck)[0].any()
