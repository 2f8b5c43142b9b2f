"""Training batches are a function of the step; evaluation loses nothing."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import augment
from ib_keras.data import batches
from ib_keras.errors import UserError

_SEED = seeds.from_int(17)
_AUGMENT = functools.partial(augment.random_crop_and_flip, pad=1)


def _data(count, shape=(3, 4, 2)):
    """Images whose label is their index, so that rows can be followed."""
    random = np.random.default_rng(count)
    images = random.integers(0, 256, [count, *shape]).astype(np.uint8)
    return images, np.arange(count)


def _train(count, **arguments):
    defaults = {
        "batch_size": 4,
        "seed": _SEED,
        "start_step": 0,
        "num_steps": 5,
    }
    dataset = batches.train_batches(*_data(count), **(defaults | arguments))
    return list(dataset.as_numpy_iterator())


def _assert_same(first, second):
    assert len(first) == len(second) > 0
    for (images, labels), (images2, labels2) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, images2)
        np.testing.assert_array_equal(labels, labels2)


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1797])
def test_shuffled_is_an_exact_permutation(size):
    positions = tf.range(size, dtype=tf.int64)
    for epoch in range(3):
        rows = batches.shuffled(positions, seeds.fold(_SEED, epoch), size)
        np.testing.assert_array_equal(np.sort(rows), np.arange(size))


def test_all_orders_of_four_examples_are_equally_likely():
    positions, count = tf.range(4, dtype=tf.int64), 600
    dataset = tf.data.Dataset.from_tensor_slices(
        seeds.fold(_SEED, tf.range(count))
    ).map(lambda seed: batches.shuffled(positions, seed, 4))
    orders = np.stack(list(dataset.as_numpy_iterator()))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    chi_square = ((counts - count / 24) ** 2 / (count / 24)).sum()
    assert chi_square < 58  # Degrees of freedom 23, p = 1e-4.


def _quality(size, epochs=10):
    """How far permutations are from random ones, in standard deviations.

    Returns:
        `(uniformity, between)`: of the counts of a 10 by 10 table of position
        against example, and of the correlation of successive epochs.
    """
    positions = tf.range(size, dtype=tf.int64)
    orders = [
        batches.shuffled(positions, seeds.fold(_SEED, epoch), size).numpy()
        for epoch in range(epochs)
    ]
    cell = np.arange(size) * 10 // size
    expected = size / 100
    chi_squares = [
        (
            (np.bincount(10 * cell + cell[order], minlength=100) - expected)
            ** 2
            / expected
        ).sum()
        for order in orders
    ]
    uniformity = (np.mean(chi_squares) - 81) / np.sqrt(2 * 81 / epochs)
    correlations = [
        np.corrcoef(first, second)[0, 1]
        for first, second in zip(orders[:-1], orders[1:], strict=True)
    ]
    between = np.abs(correlations).max() * np.sqrt(size)
    return uniformity, between


@pytest.mark.parametrize("size", [1440, 50000, 60000])
def test_permutations_look_random_and_epochs_uncorrelated(size):
    uniformity, between = _quality(size)
    assert abs(uniformity) < 4.5
    assert between < 4.5


def test_the_rounds_of_the_public_shuffle_would_not_pass(monkeypatch):
    monkeypatch.setattr(batches, "_ROUNDS", 4)
    uniformity, between = _quality(60000)
    assert uniformity < -10
    assert between > 20


@pytest.mark.parametrize("arguments", [{}, {"augment": _AUGMENT}])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(arguments):
    whole = _train(19, num_steps=11, **arguments)
    for start in (1, 4, 7):  # An epoch has four steps.
        rest = _train(19, start_step=start, num_steps=11 - start, **arguments)
        _assert_same(rest, whole[start:])


def test_resuming_across_a_block_of_seeds_changes_nothing():
    start = batches._SEED_BLOCK - 3
    whole = _train(19, num_steps=start + 6, augment=_AUGMENT)
    rest = _train(19, start_step=start, num_steps=6, augment=_AUGMENT)
    _assert_same(rest, whole[start:])


def test_an_epoch_has_each_example_once_and_epochs_differ():
    epochs = [
        np.concatenate([labels for _, labels in _train(20, start_step=start)])
        for start in (0, 5, 10**9)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(20))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], epochs[2])


def test_the_remainder_of_an_epoch_is_dropped_and_varies():
    assert batches.steps_per_epoch(19, 4) == 4
    dropped = set()
    run = _train(19, num_steps=40)
    for epoch in range(10):
        steps = run[4 * epoch : 4 * epoch + 4]
        seen = np.concatenate([labels for _, labels in steps])
        assert len(np.unique(seen)) == 16
        dropped |= set(range(19)) - set(seen.tolist())
    assert len(dropped) > 6


def test_images_and_labels_stay_together():
    images, _ = _data(20)
    for batch, labels in _train(20):
        assert batch.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(batch, images[labels])


def test_augmentation_has_new_draws_in_each_step():
    def record(images, seed):
        return images * 0 + tf.cast(tf.math.floormod(seed[0], 256), tf.uint8)

    values = [images.max() for images, _ in _train(20, augment=record)]
    assert len(set(values)) > 3


def test_the_seed_changes_order_and_augmentation():
    other = _train(20, seed=seeds.from_int(18))
    assert not np.array_equal(other[0][1], _train(20)[0][1])
    same_order = np.arange(20)

    def offsets(seed):
        images = batches.train_batches(
            np.ones([20, 3, 4, 2], np.uint8),
            same_order,
            batch_size=20,
            seed=seed,
            start_step=0,
            num_steps=1,
            augment=_AUGMENT,
        )
        return next(iter(images))[0].numpy()

    assert not np.array_equal(offsets(_SEED), offsets(seeds.from_int(18)))


@pytest.mark.parametrize("arguments", [{}, {"augment": _AUGMENT}])
@pytest.mark.parametrize("num_shards, num_local", [(1, 3), (2, 1), (2, 3)])
def test_the_slices_of_all_devices_are_the_global_batch(
    num_shards, num_local, arguments
):
    whole = _train(31, batch_size=12, start_step=1, **arguments)
    shards = [
        _train(
            31,
            batch_size=12,
            start_step=1,
            num_shards=num_shards,
            shard_index=shard,
            num_local=num_local,
            **arguments,
        )
        for shard in range(num_shards)
    ]
    joined = []
    for step in range(5):
        parts = [
            element
            for shard in shards
            for element in shard[step * num_local : (step + 1) * num_local]
        ]
        size = 12 // (num_shards * num_local)
        assert all(len(labels) == size for _, labels in parts)
        joined.append(
            tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        )
    _assert_same(joined, whole)


def test_a_strategy_gives_each_replica_its_slice():
    if len(tf.config.list_physical_devices("CPU")) != 1:
        pytest.skip("this test divides one CPU into logical devices")
    try:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) < 2:
            pytest.skip("TensorFlow already runs with one logical CPU")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    images, labels = _data(31)

    def make(context):
        return batches.train_batches(
            images,
            labels,
            batch_size=12,
            seed=_SEED,
            start_step=1,
            num_steps=5,
            augment=_AUGMENT,
            num_shards=context.num_input_pipelines,
            shard_index=context.input_pipeline_id,
            num_local=2,
        )

    distributed = strategy.distribute_datasets_from_function(make)
    joined = [
        tuple(
            np.concatenate(strategy.experimental_local_results(column))
            for column in element
        )
        for element in distributed
    ]
    _assert_same(
        joined, _train(31, batch_size=12, start_step=1, augment=_AUGMENT)
    )


def test_the_pipeline_has_static_shapes_and_a_known_length():
    dataset = batches.train_batches(
        *_data(20),
        batch_size=8,
        seed=_SEED,
        start_step=3,
        num_steps=6,
        augment=_AUGMENT,
        num_local=2,
    )
    assert dataset.element_spec == (
        tf.TensorSpec([4, 3, 4, 2], tf.uint8),
        tf.TensorSpec([4], tf.int32),
    )
    assert int(dataset.cardinality()) == 12
    assert len(list(dataset)) == 12
    assert dataset.options().deterministic


def _graph_bytes(dataset):
    size = sum(
        function.function.graph.as_graph_def().ByteSize()
        for function in dataset._functions()
    )
    return size + sum(_graph_bytes(parent) for parent in dataset._inputs())


def test_the_data_are_captured_and_not_written_into_graphs():
    images = np.zeros([1000, 32, 32, 1], np.uint8)  # 1 MB.
    labels = np.zeros(1000, np.int32)
    train = batches.train_batches(
        images,
        labels,
        batch_size=10,
        seed=_SEED,
        start_step=0,
        num_steps=1,
        augment=_AUGMENT,
    )
    for dataset in (train, batches.eval_batches(images, labels, 10)):
        assert 1e3 < _graph_bytes(dataset) < 2e5


def test_no_steps_are_no_batches():
    assert _train(20, num_steps=0) == []


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 16])
@pytest.mark.parametrize("count", [1, 7, 10])
def test_evaluation_gives_each_example_once_and_in_order(count, batch_size):
    images, labels = _data(count)
    images |= 1  # No real pixel is 0.
    elements = list(
        batches.eval_batches(images, labels, batch_size).as_numpy_iterator()
    )
    assert len(elements) == -(-count // batch_size)
    for batch, batch_labels, mask in elements:
        assert batch.shape == (batch_size, 3, 4, 2)
        assert batch.dtype == np.uint8 and batch_labels.dtype == np.int32
        assert mask.dtype == bool and mask.shape == (batch_size,)
        assert (batch[~mask] == 0).all() and (batch_labels[~mask] == 0).all()
    kept = [np.concatenate([e[k][e[2]] for e in elements]) for k in (0, 1)]
    np.testing.assert_array_equal(kept[0], images)
    np.testing.assert_array_equal(kept[1], labels)


def test_evaluation_batches_have_static_shapes_and_keep_floats():
    images, labels = _data(5)
    images = images.astype(np.float32) / 255
    dataset = batches.eval_batches(images, labels, 4)
    assert dataset.element_spec == (
        tf.TensorSpec([4, 3, 4, 2], tf.float32),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([4], tf.bool),
    )
    assert int(dataset.cardinality()) == 2
    np.testing.assert_array_equal(next(iter(dataset))[0], images[:4])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((0, 10, 1), ("empty", "batch_size 0", "1 or more")),
        ((11, 10, 1), ("larger", "batch_size 11", "at most 10")),
        ((8, 10, 3), ("evenly", "8 for 3 devices", "batch_size to 6")),
        ((2, 10, 3), ("evenly", "2 for 3 devices", "batch_size to 3")),
    ],
)
def test_impossible_batch_sizes_are_user_errors(arguments, words):
    with pytest.raises(UserError) as error:
        batches.check_batch_size(*arguments)
    for word in (*words, "Received:", "Expected:", "Fix:"):
        assert word in str(error.value)


def test_possible_batch_sizes_pass():
    batches.check_batch_size(10, 10)
    batches.check_batch_size(1, 1)
    batches.check_batch_size(6, 10, 3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"batch_size": 21}, ("larger", "at most 20")),
        ({"num_shards": 2, "num_local": 3}, ("evenly", "4 for 6 devices")),
        ({"num_shards": 2, "shard_index": 2}, ("shard", "2 of 2", "0 to 1")),
    ],
)
def test_train_batches_refuse_at_once_what_cannot_be(arguments, words):
    with pytest.raises(UserError) as error:
        _train(20, **arguments)
    for word in (*words, "Received:", "Expected:", "Fix:"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "images, labels",
    [
        (np.zeros([4, 2, 2, 1], np.uint8), np.zeros(3, np.int32)),
        (np.zeros([4, 2, 2], np.uint8), np.zeros(4, np.int32)),
        (np.zeros([4, 2, 2, 1], np.uint8), np.zeros([4, 10], np.int32)),
        (np.zeros([0, 2, 2, 1], np.uint8), np.zeros(0, np.int32)),
    ],
)
def test_arrays_that_do_not_fit_are_user_errors(images, labels):
    for make in (
        lambda: batches.eval_batches(images, labels, 1),
        lambda: batches.train_batches(
            images,
            labels,
            batch_size=1,
            seed=_SEED,
            start_step=0,
            num_steps=1,
        ),
    ):
        with pytest.raises(UserError) as error:
            make()
        message = str(error.value)
        assert f"Received: images of shape {images.shape}" in message
        assert "Expected: [n, height" in message and "Fix:" in message


def test_evaluation_refuses_empty_batches():
    with pytest.raises(UserError, match="Received: batch_size 0. Expected: 1"):
        batches.eval_batches(*_data(5), 0)
