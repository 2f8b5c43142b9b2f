"""Newly drawn batches are a function of the seed and the step."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.data import batches
from ib_keras.errors import UserError

_SEED = seeds.from_int(17)
_TOYS = ["toy_overlap", "toy_tsipras"]


def make(name="toy_overlap", **arguments):
    defaults = {
        "batch_size": 12,
        "seed": _SEED,
        "start_step": 0,
        "num_steps": 5,
    }
    draw = plugins.build("data", {"name": name}).draw
    return batches.fresh_batches(draw, **(defaults | arguments))


def served(name="toy_overlap", **arguments):
    return list(make(name, **arguments).as_numpy_iterator())


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("name", _TOYS)
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(name):
    whole = served(name)
    for start in (1, 4):
        rest = served(name, start_step=start, num_steps=5 - start)
        assert_same(rest, whole[start:])
    start = batches._SEED_BLOCK - 2
    whole = served(name, num_steps=start + 4)
    assert_same(served(name, start_step=start, num_steps=4), whole[start:])


@pytest.mark.parametrize("name", _TOYS)
@pytest.mark.parametrize("num_shards, num_local", [(1, 3), (2, 1), (2, 3)])
def test_the_slices_of_all_devices_are_the_global_batch(
    name, num_shards, num_local
):
    shards = [
        served(name, num_shards=num_shards, shard_index=i, num_local=num_local)
        for i in range(num_shards)
    ]
    joined = []
    for step in range(5):
        own = slice(step * num_local, (step + 1) * num_local)
        parts = [element for shard in shards for element in shard[own]]
        assert all(
            len(part[1]) == 12 // num_shards // num_local for part in parts
        )
        columns = zip(*parts, strict=True)
        joined.append(tuple(np.concatenate(column) for column in columns))
    assert_same(joined, served(name))


def test_no_example_comes_twice_nor_is_one_of_a_split():
    made = plugins.build("data", {"name": "toy_overlap"})
    rows = [
        row.tobytes()
        for images, _ in served(batch_size=64, num_steps=20)
        for row in images
    ]
    assert len(set(rows)) == len(rows) == 1280
    for split in ("train", "test", "adversarial"):
        there = {row.tobytes() for row in made.load(split)[0]}
        assert not there & set(rows)


def test_the_seed_of_the_run_changes_them():
    first, other = served(), served(seed=seeds.from_int(18))
    assert (first[0][0] != other[0][0]).mean() > 0.9


def test_example_i_of_step_t_has_a_seed_of_its_own():
    made = plugins.build("data", {"name": "toy_overlap"})
    purpose = seeds.fold(_SEED, batches._DRAW)
    images, labels = served()[3]
    for i in (0, 7, 11):
        own = seeds.fold(purpose, 3, i)[None]
        expected = made.draw(own)
        np.testing.assert_allclose(images[i], expected[0][0], atol=1e-6)
        assert labels[i] == expected[1][0]


def test_the_pipeline_has_static_shapes_and_a_known_length():
    dataset = make("toy_tsipras", num_local=2, num_steps=3)
    assert dataset.element_spec == (
        tf.TensorSpec([6, 1, 101, 1], tf.float32),
        tf.TensorSpec([6], tf.int32),
    )
    assert int(dataset.cardinality()) == 6 == len(list(dataset))
    assert dataset.options().deterministic
    assert served(num_steps=0) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, ("empty", "batch_size 0")),
        ({"num_local": 5}, ("evenly", "12 for 5 devices")),
        ({"num_shards": 2, "shard_index": 2}, ("shard", "2 of 2", "0 to 1")),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(arguments, words):
    with pytest.raises(UserError) as error:
        make(**arguments)
    for word in (*words, "Received:", "Expected:", "Fix:"):
        assert word in str(error.value)
