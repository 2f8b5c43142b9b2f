import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import schedules
from ib_keras.optimizers import FusedAdam
from tests.support import models

SHAPES = ((7, 5), (5,), ())
NUM_STEPS = 20
LEARNING_RATE = 0.01

# The kernel computes 1 - beta_2 in float32, Keras in Python. At 0.999 that is
# one part in 76,000 of the velocity, half of it of an update, on top of the
# rounding; both converge to the same.
RELATIVE = 2e-5


def arguments(**changes):
    schedule = schedules.learning_rate(LEARNING_RATE, 0.7, 1, 6)
    return {
        "learning_rate": schedule,
        "beta_1": 0.5,
        "beta_2": 0.999,
        **changes,
    }


def start():
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype="float32")
        for shape in SHAPES
    ]


def gradients(num_steps=NUM_STEPS):
    # Over many sizes, since Adam's epsilon shows in the small ones alone.
    rng = np.random.default_rng(1)
    sizes = 10.0 ** rng.uniform(-9, 2, size=num_steps)
    return [
        [(s * rng.normal(size=shape)).astype(np.float32) for shape in SHAPES]
        for s in sizes
    ]


def run(optimizer, num_steps=NUM_STEPS, variables=None):
    """The weights and the optimizer's own variables after each step."""
    variables = variables or start()
    history = []
    for step_gradients in gradients(num_steps):
        optimizer.apply([tf.constant(g) for g in step_gradients], variables)
        history.append([v.numpy() for v in variables + optimizer.variables])
    return history


def assert_close(received, expected):
    assert len(received) == len(expected) == NUM_STEPS
    for step, (left, right) in enumerate(zip(received, expected, strict=True)):
        assert len(left) == len(right) > 3 * len(SHAPES)
        for a, b in zip(left, right, strict=True):
            # An update is at most about 2 learning rates.
            atol = RELATIVE * 2 * LEARNING_RATE * (step + 1)
            np.testing.assert_allclose(a, b, rtol=RELATIVE, atol=atol)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_ema": True, "ema_momentum": 0.9},
        {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
        {"weight_decay": 0.1},
        {"clipnorm": 0.01},
        {"epsilon": 1e-3, "beta_1": 0.9, "beta_2": 0.99},
    ],
    ids=lambda changes: "+".join(changes) or "plain",
)
def test_it_is_keras_adam_step_by_step(changes):
    received = run(FusedAdam(**arguments(**changes)))
    expected = run(keras.optimizers.Adam(**arguments(**changes)))
    assert_close(received, expected)
    moved = np.abs(received[-1][0] - start()[0].numpy()).max()
    assert moved > LEARNING_RATE


def test_it_follows_the_published_algorithm():
    received = run(FusedAdam(**arguments()))
    weights = [v.numpy().astype(np.float64) for v in start()]
    m = [np.zeros(shape) for shape in SHAPES]
    v = [np.zeros(shape) for shape in SHAPES]
    for t, grads in enumerate(gradients(), 1):
        rate = LEARNING_RATE * 0.7 ** ((t - 1) // 6)
        for i, g in enumerate(np.float64(x) for x in grads):
            m[i] = 0.5 * m[i] + 0.5 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            # "Epsilon hat", as the class documents it.
            alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.5**t)
            weights[i] -= alpha * m[i] / (np.sqrt(v[i]) + 1e-7)
            np.testing.assert_allclose(
                received[t - 1][i], weights[i], rtol=0, atol=1e-6
            )


def test_rows_of_a_gather_are_summed_before_they_are_squared():
    results = []
    for densify in (tf.identity, tf.convert_to_tensor):
        optimizer = FusedAdam(learning_rate=0.1)
        (table, *_) = start()
        for rows in ([0, 3, 3], [1, 3, 6]):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(table.value, rows) ** 2)
            gradient = tape.gradient(loss, table.value)
            assert isinstance(gradient, tf.IndexedSlices)
            optimizer.apply([densify(gradient)], [table])
        results.append(table.numpy())
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], start()[0].numpy())


def test_it_comes_back_from_its_config():
    optimizer = FusedAdam(**arguments(use_ema=True, ema_momentum=0.9))
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert isinstance(again, FusedAdam)
    assert again.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(run(again)[-1][0], run(optimizer)[-1][0])


def test_amsgrad_is_refused_with_the_optimizer_that_has_it():
    with pytest.raises(ValueError, match="keras.optimizers.Adam"):
        FusedAdam(amsgrad=True)


def test_it_updates_weights_of_another_dtype():
    variables = [
        keras.Variable(np.ones(3), dtype=dtype)
        for dtype in ("float64", "float16")
    ]
    for variable in variables:
        FusedAdam(learning_rate=0.1).apply(
            [tf.constant([1.0, 2.0, -4.0])], [variable]
        )
        # A first step of Adam goes one learning rate along the sign.
        np.testing.assert_allclose(
            np.float64(variable.numpy()), [0.9, 0.9, 1.1], rtol=0.01
        )


def fit(model, epochs, initial_epoch=0):
    images, labels = models.data()
    model.fit(
        images,
        labels,
        batch_size=16,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
    )
    return model


def test_training_goes_on_after_a_load_as_if_it_had_not_stopped(tmp_path):
    model = models.build("ceb")
    model.compile(
        FusedAdam(**arguments(use_ema=True, ema_momentum=0.9)),
        run_eagerly=True,  # Few steps take less time than tracing one.
    )
    path = str(tmp_path / "model.keras")
    fit(model, 1).save(path)
    resumed = keras.models.load_model(path)
    assert int(resumed.optimizer.iterations.numpy()) == 4
    for before, after in zip(
        model.optimizer.variables, resumed.optimizer.variables, strict=True
    ):
        assert np.any(before.numpy())
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    fit(model, 3, initial_epoch=1)
    fit(resumed, 3, initial_epoch=1)
    for before, after in zip(model.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(before.numpy(), after.numpy(), atol=1e-6)


def run_on(strategy):
    with strategy.scope():
        variables = start()
        optimizer = FusedAdam(**arguments(use_ema=True))
        optimizer.build(variables)

    @tf.function
    def step(*step_gradients):
        # Keras adds gradients up over the replicas: here 1/4 and 3/4.
        context = tf.distribute.get_replica_context()
        share = 1.0
        if context.num_replicas_in_sync == 2:
            replica = tf.cast(context.replica_id_in_sync_group, tf.float32)
            share = 0.25 + 0.5 * replica
        optimizer.apply([share * g for g in step_gradients], variables)

    for step_gradients in gradients():
        strategy.run(step, args=[tf.constant(g) for g in step_gradients])
    return variables, optimizer


def test_two_replicas_update_as_one_does_and_stay_together():
    results = []
    for strategy in (tf.distribute.get_strategy(), models.two_devices()):
        variables, optimizer = run_on(strategy)
        results.append([v.numpy() for v in variables + optimizer.variables])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    for variable in variables:
        replicas = [v.numpy() for v in variable.value.values]
        assert len(replicas) == 2
        np.testing.assert_array_equal(*replicas)
