"""Batches: shuffled or newly drawn for training, padded for evaluation.

Training batches are infinite and stateless: the batch of global step t is a
function of (data, batch size, seed, t) alone. So a resumed run sees the same
batches as an uninterrupted one, at no cost, and several devices see the same
batch as one.

The arrays are captured by the pipeline as tensors and never become part of a
graph. Pass tensors to share them between pipelines without a copy.

Example:
    Two hosts with four devices each, step 1000 of a run with seed 3:
        distributed = strategy.distribute_datasets_from_function(
            lambda context: train_batches(
                images, labels, batch_size=1024, seed=seeds.from_int(3),
                start_step=1000, num_steps=100,
                num_shards=context.num_input_pipelines,
                shard_index=context.input_pipeline_id,
                num_local=4))
"""

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data.source import AugmentFn
from ib_keras.data.source import DrawFn
from ib_keras.errors import UserError

# Constants that seeds are folded with, one per purpose.
_SHUFFLE, _AUGMENT, _DRAW = 0, 1, 2

# Rounds of the cipher behind `tf.random.experimental.index_shuffle`, which
# fixes 4. At 50,000 or 60,000 examples the permutations of two epochs are then
# correlated (0.2 to 0.3); from 8 on no test distinguishes them from random
# ones.
_ROUNDS = 16

# Steps whose seeds are folded at once: the fold is some 150 small operations,
# whatever the number of seeds.
_SEED_BLOCK = 256


def check_batch_size(
    batch_size: int, num_examples: int, num_replicas: int = 1
) -> None:
    """Refuses a training batch size that cannot be used.

    Args:
        batch_size: Examples in a global batch.
        num_examples: Examples in the data set.
        num_replicas: Devices that share a global batch.

    Raises:
        UserError: If the batch size is below 1, larger than the data set, or
            not divisible by the number of devices.
    """
    _check_positive(batch_size)
    if batch_size > num_examples:
        raise UserError(
            "The batch is larger than the data set",
            received=f"batch_size {batch_size}",
            expected=f"at most {num_examples}, the number of examples",
            fix=f"Set batch_size to {num_examples} or less, or use more data.",
        )
    if batch_size % num_replicas:
        nearest = max(batch_size // num_replicas, 1) * num_replicas
        raise UserError(
            "The global batch cannot be shared evenly by the devices",
            received=f"batch_size {batch_size} for {num_replicas} devices",
            expected=f"a multiple of {num_replicas}",
            fix=f"Set batch_size to {nearest}, or use other devices.",
        )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """How many whole batches an epoch has; its remainder is dropped."""
    return num_examples // batch_size


def shuffled(positions: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Maps positions to examples by a random permutation of the data set.

    The permutation is not stored: each position is encrypted by itself, so a
    batch costs the same at every position. The cipher works on 16
    bits or more: even a small data set costs 65,536 encryptions an epoch.

    Args:
        positions: int64 `[n]` in [0, size).
        seed: int32 `[2]`; it chooses the permutation.
        size: Number of examples.

    Returns:
        int64 `[n]` in [0, size); all positions give all examples once.
    """
    return tf.raw_ops.RandomIndexShuffle(
        index=positions,
        seed=tf.pad(seed, [[1, 0]]),  # A key has three words.
        max_index=tf.constant(size - 1, tf.int64),
        rounds=_ROUNDS,
    )


def train_batches(
    images,
    labels,
    *,
    batch_size: int,
    seed: tf.Tensor,
    start_step: int,
    num_steps: int,
    augment: AugmentFn | None = None,
    num_shards: int = 1,
    shard_index: int = 0,
    num_local: int = 1,
) -> tf.data.Dataset:
    """Makes the training batches of the steps from `start_step` on.

    Step t belongs to epoch `t // steps_per_epoch`. Each epoch goes through
    the data set in its own order; the rest after its last whole batch is
    dropped, and differs between epochs.

    Several devices share a global batch as contiguous slices: the pipeline of
    shard s gives, for each step, `num_local` elements, the slices
    `s num_local` to `(s + 1) num_local - 1` of `num_shards num_local`. With
    `augment`, each shard augments the whole global batch and keeps its part,
    so that a device's images do not depend on how many devices there are.

    Args:
        images: `[n, height, width, channels]`, array or tensor, as uint8.
        labels: `[n]` of integers.
        batch_size: Examples in a global batch.
        seed: int32 `[2]`, of the run.
        start_step: Global step of the first batch, 0 or more; a late start
            costs nothing.
        num_steps: Number of steps.
        augment: Takes the images of a global batch and a seed int32 `[2]`,
            and returns images of the same shape and dtype.
        num_shards: Number of input pipelines, one for each host.
        shard_index: Which of them this is, from 0.
        num_local: Devices that this pipeline feeds.

    Returns:
        A dataset of `num_steps num_local` elements: images
        `[batch_size / (num_shards num_local), height, width, channels]` in
        their dtype, and labels int32, of static shape.

    Raises:
        UserError: If images and labels do not fit together, the batch size
            is larger than the data set or not divisible by the devices, or
            there is no such shard.
    """
    images, labels = _tensors(images, labels)
    size = int(labels.shape[0])
    check_batch_size(batch_size, size, num_shards * num_local)
    _check_shard(shard_index, num_shards)
    per_epoch = steps_per_epoch(size, batch_size)
    shard = batch_size // num_shards
    begin = shard_index * shard
    seed = tf.convert_to_tensor(seed, tf.int32)
    purposes = tf.stack(
        [seeds.fold(seed, _SHUFFLE), seeds.fold(seed, _AUGMENT)]
    )

    def add_seeds(steps):
        indices = tf.stack([steps // per_epoch, steps])
        shuffle_seeds, augment_seeds = tf.unstack(
            seeds.fold(purposes[:, None], indices)
        )
        return steps, shuffle_seeds, augment_seeds

    def make_batch(step, shuffle_seed, augment_seed):
        first = step % per_epoch * batch_size
        if augment is None:
            positions = first + begin + tf.range(shard, dtype=tf.int64)
            rows = shuffled(positions, shuffle_seed, size)
            batch = tf.gather(images, rows)
        else:
            positions = first + tf.range(batch_size, dtype=tf.int64)
            rows = shuffled(positions, shuffle_seed, size)
            batch = augment(tf.gather(images, rows), augment_seed)
            batch = tf.ensure_shape(batch, [batch_size, *images.shape[1:]])
            batch = batch[begin : begin + shard]
            rows = rows[begin : begin + shard]
        return _slices(batch, num_local), _slices(
            tf.gather(labels, rows), num_local
        )

    steps = range(start_step, start_step + num_steps)
    return _of_steps(steps, add_seeds, make_batch, num_local)


def fresh_batches(
    draw: DrawFn,
    *,
    batch_size: int,
    seed: tf.Tensor,
    start_step: int,
    num_steps: int,
    num_shards: int = 1,
    shard_index: int = 0,
    num_local: int = 1,
) -> tf.data.Dataset:
    """Makes training batches of newly drawn examples.

    Example i of step t is drawn with the seed folded from (seed, t, i). Each
    shard draws the whole global batch and keeps its part, as `train_batches`
    does, so that the result does not depend on the number of devices.

    Args:
        draw: That of a `DataSource`.
        batch_size: Examples in a global batch.
        seed: int32 `[2]`, of the run.
        start_step: Global step of the first batch, 0 or more; a late start
            costs nothing.
        num_steps: Number of steps.
        num_shards: Number of input pipelines, one for each host.
        shard_index: Which of them this is, from 0.
        num_local: Devices that this pipeline feeds.

    Returns:
        A dataset of elements like those of `train_batches`.

    Raises:
        UserError: If the batch size is not divisible by the devices, or there
            is no such shard.
    """
    # Newly drawn examples never run out.
    check_batch_size(batch_size, batch_size, num_shards * num_local)
    _check_shard(shard_index, num_shards)
    shard = batch_size // num_shards
    begin = shard_index * shard
    purpose = seeds.fold(tf.convert_to_tensor(seed, tf.int32), _DRAW)

    def add_seeds(steps):
        return steps, seeds.fold(purpose, steps)

    def make_batch(step, step_seed):
        del step
        drawn = draw(seeds.fold(step_seed, tf.range(batch_size)))
        parts = []
        for part in drawn:
            part = tf.ensure_shape(part, [batch_size, *part.shape[1:]])
            parts.append(_slices(part[begin : begin + shard], num_local))
        return tuple(parts)

    steps = range(start_step, start_step + num_steps)
    return _of_steps(steps, add_seeds, make_batch, num_local)


def eval_batches(
    images,
    labels,
    batch_size: int,
    *,
    num_shards: int = 1,
    shard_index: int = 0,
    num_local: int = 1,
) -> tf.data.Dataset:
    """Makes static batches that hold every example exactly once, in order.

    The last batch is filled up with zeros (label 0) that the mask excludes.
    Several devices share a global batch as they do in `train_batches`; one
    that they do not divide is made larger.

    Args:
        images: `[n, height, width, channels]`, array or tensor.
        labels: `[n]` of integers.
        batch_size: Examples in a batch; may be larger than the data set.
        num_shards: Number of input pipelines, one for each host.
        shard_index: Which of them this is, from 0.
        num_local: Devices that this pipeline feeds.

    Returns:
        A dataset of images `[batch, height, width, channels]` in their dtype,
        labels int32 `[batch]` and mask bool `[batch]`, true for real
        examples; `batch` is that of one device.

    Raises:
        UserError: If images and labels do not fit together, or the batch size
            is below 1.
    """
    images, labels = _tensors(images, labels)
    _check_positive(batch_size)
    size = int(labels.shape[0])
    num_replicas = num_shards * num_local
    batch_size = -(-batch_size // num_replicas) * num_replicas
    shard = batch_size // num_shards
    begin = shard_index * shard

    def make_batch(first):
        rows = first + begin + tf.range(shard, dtype=tf.int64)
        mask = rows < size
        rows = tf.minimum(rows, size - 1)
        batch = tf.gather(images, rows)
        batch = tf.where(mask[:, None, None, None], batch, tf.zeros_like(batch))
        parts = batch, tf.where(mask, tf.gather(labels, rows), 0), mask
        return tuple(_slices(part, num_local) for part in parts)

    dataset = tf.data.Dataset.range(0, size, batch_size)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    if num_local > 1:
        dataset = dataset.unbatch()
    return _finish(dataset)


def sum_over_eval_batches(strategy, function, images, labels, batch_size: int):
    """Calls a compiled function on every example once, and adds up.

    Args:
        strategy: Where to run.
        function: Takes images, labels, a mask bool `[batch]` of real examples
            and the index of the batch; returns a vector of sums.
        images: uint8 or float32 array `[examples, ...]`.
        labels: int32 array `[examples]`.
        batch_size: Global batch size.

    Returns:
        The sum of the vectors, float64.
    """

    def pipeline(context):
        count = context.num_input_pipelines
        return eval_batches(
            images,
            labels,
            batch_size,
            num_shards=count,
            shard_index=context.input_pipeline_id,
            num_local=context.num_replicas_in_sync // count,
        )

    dataset = strategy.distribute_datasets_from_function(pipeline)
    return sum(
        function(*batch, tf.constant(index)).numpy().astype(np.float64)
        for index, batch in enumerate(dataset)
    )


def _of_steps(steps, add_seeds, make_batch, num_local) -> tf.data.Dataset:
    """Maps steps to their batches, with the seeds of a block at once."""
    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    dataset = dataset.batch(_SEED_BLOCK).map(add_seeds).unbatch()
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    if num_local > 1:
        dataset = dataset.unbatch()
    count = len(steps) * num_local
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return _finish(dataset)


def _check_shard(shard_index: int, num_shards: int) -> None:
    if not 0 <= shard_index < num_shards:
        raise UserError(
            "There is no such shard",
            received=f"shard_index {shard_index} of {num_shards} shards",
            expected=f"0 to {num_shards - 1}",
            fix="Number the input pipelines from 0.",
        )


def _check_positive(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(
            "The batch is empty",
            received=f"batch_size {batch_size}",
            expected="1 or more",
            fix="Set batch_size to a positive whole number.",
        )


def _tensors(images, labels) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts a data set into host memory, where the pipelines read it."""
    with tf.device("CPU:0"):
        images = tf.convert_to_tensor(images)
        labels = tf.cast(tf.convert_to_tensor(labels), tf.int32)
    fits = (
        images.shape.rank == 4
        and labels.shape.rank == 1
        and images.shape[0] == labels.shape[0] > 0
    )
    if not fits:
        raise UserError(
            "Images and labels are not a data set",
            received=f"images of shape {tuple(images.shape)}, labels of shape "
            f"{tuple(labels.shape)}",
            expected="[n, height, width, channels] and [n] with n > 0",
            fix="Give one integer class for each image.",
        )
    return images, labels


def _slices(batch: tf.Tensor, num_local: int) -> tf.Tensor:
    """Splits the batch axis into `[num_local, rest]`, if there are several."""
    if num_local == 1:
        return batch
    rest = batch.shape[0] // num_local
    return tf.reshape(batch, [num_local, rest, *batch.shape[1:]])


def _finish(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Shards are made here; sharding again in a strategy would lose examples.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
