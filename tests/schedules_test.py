import keras
import pytest
import tensorflow as tf

from ib_keras import schedules
from ib_keras.errors import UserError


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # Two epochs of 600 steps at 1e-4, then 0.97 of it, and so on.
        (0, 1e-4),
        (1199, 1e-4),
        (1200, 0.97e-4),
        (2399, 0.97e-4),
        (2400, 0.9409e-4),
        (119_999, 4.902_320e-6),  # 1e-4 * 0.97^99, the last of 200 epochs.
    ],
)
def test_the_learning_rate_of_mnist_falls_in_stairs(step, expected):
    schedule = schedules.learning_rate(1e-4, 0.97, 2, 600)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.012), (12_249, 0.012), (12_250, 0.0036), (36_750, 0.000324)],
)
def test_the_learning_rate_of_cifar10_falls_in_stairs(step, expected):
    schedule = schedules.learning_rate(0.012, 0.3, 250, 49)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


def test_uneven_stairs_are_the_even_ones_where_these_agree():
    even = schedules.learning_rate(0.05, 0.4, 1, 781)
    same = schedules.learning_rate(0.05, 0.4, (1, 2, 3), 781)
    uneven = schedules.learning_rate(0.05, 0.4, (1, 4), 781)
    for step in (0, 780, 781, 1561, 1562, 2342, 2343, 3000):
        assert float(same(step)) == float(even(step))
    assert float(uneven(1562)) == float(uneven(3123)) == float(even(781))
    assert float(uneven(3124)) == float(even(1562))


@pytest.mark.parametrize("epochs", [(0,), (2, 1), (1, 1), (1.5,), "12"])
def test_stairs_at_other_numbers_than_epochs_are_refused(epochs):
    with pytest.raises(UserError, match="cannot fall at these epochs"):
        schedules.learning_rate(0.1, 0.5, epochs, 3)


def test_the_learning_rate_is_saved_with_the_optimizer():
    schedule = schedules.learning_rate(0.1, 0.5, 2, 3)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert [float(again(s)) for s in (5, 6, 12)] == pytest.approx(
        [0.1, 0.05, 0.025]
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 100.0), (1, 99.5), (49, 75.5), (98, 51.0), (196, 2.0), (10**6, 2.0)],
)
def test_rho_goes_down_a_straight_line_and_stays(step, expected):
    # Four epochs of 49 steps from 100 to 2: 0.5 a step.
    value = schedules.anneal(
        tf.constant(step), start=100.0, end=2.0, num_steps=196
    )
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "step", "expected"),
    [
        ("linear", 0, 1e-8),
        ("linear", 25, 0.002_500_007_5),
        ("linear", 50, 0.005_000_005),
        ("linear", 100, 0.01),
        ("linear", 2**31 - 1, 0.01),
        # From 1e-8 to 1e-2 are six decades.
        ("geometric", 0, 1e-8),
        ("geometric", 25, 3.162_277_7e-7),
        ("geometric", 50, 1e-5),
        ("geometric", 100, 0.01),
        ("geometric", 2**31 - 1, 0.01),
    ],
)
def test_beta_goes_up_and_stays(shape, step, expected):
    value = schedules.anneal(
        tf.constant(step), start=1e-8, end=0.01, num_steps=100, shape=shape
    )
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", schedules.SHAPES)
def test_without_steps_the_last_value_holds_from_the_beginning(shape):
    value = schedules.anneal(
        tf.constant(0), start=1e-8, end=0.25, num_steps=0, shape=shape
    )
    assert float(value) == 0.25


@pytest.mark.parametrize("shape", schedules.SHAPES)
def test_a_step_may_be_a_tensor_of_a_compiled_function(shape):
    @tf.function
    def traced(step):
        return schedules.anneal(
            step, start=4.0, end=1.0, num_steps=2, shape=shape
        )

    values = [float(traced(tf.constant(step))) for step in range(4)]
    middle = {"linear": 2.5, "geometric": 2.0}[shape]
    assert values == pytest.approx([4.0, middle, 1.0, 1.0])
    assert traced.experimental_get_tracing_count() == 1


def test_an_unknown_shape_is_refused_even_where_nothing_is_annealed():
    with pytest.raises(UserError, match='Did you mean "linear"'):
        schedules.anneal(0, start=0.0, end=1.0, num_steps=0, shape="liner")


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (1e-8, 0.0)])
def test_geometric_annealing_needs_positive_ends(start, end):
    with pytest.raises(UserError, match="positive"):
        schedules.anneal(
            0, start=start, end=end, num_steps=5, shape="geometric"
        )
