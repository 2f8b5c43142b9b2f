"""The programs that run on a device: steps, attacks, endpoints.

Each is a `tf.function` with the specifications of its arguments, of static
shape, as a TPU needs them.
"""

import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from ib_keras import classifier
from ib_keras import export
from ib_keras import files
from ib_keras import modes
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import engine as engines
from ib_keras.attacks import judging
from ib_keras.errors import UserError
from ib_keras.training import loop

_EPOCH = 50

# Arguments besides the defaults with which an attack is traced too.
_VARIANTS = {
    "apgd": ({"loss": "targeted_dlr"}, {"num_eot": 2}),
    "pgd": ({"num_eot": 2},),
}


class Program(NamedTuple):
    """One program.

    Attributes:
        name: For the table.
        function: A `tf.function`.
        specs: Of its arguments.
    """

    name: str
    function: Callable
    specs: tuple

    def graph(self):
        """The traced graph."""
        return self.function.get_concrete_function(*self.specs).graph


class Parts(NamedTuple):
    """A model with what trains it."""

    model: Any
    optimizer: Any
    steps: loop.Steps
    image_shape: tuple[int, ...]


def build(
    config, image_shape, num_classes=10, strategy=None, batch_size=8
) -> Parts:
    """Builds the model, the optimiser and the steps of a training config."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = classifier.build(
            config,
            image_shape=image_shape,
            num_classes=num_classes,
            steps_per_epoch=_EPOCH,
            channel_statistics=lambda: ((0.5,) * 3, (0.25,) * 3),
        )
        optimizer = loop.build_optimizer(
            config["optim"], config["averaging"]["decay"], _EPOCH
        )
        optimizer.build(model.trainable_variables)
    steps = loop.Steps(
        model, optimizer, strategy, seeds.from_int(0), batch_size
    )
    return Parts(model, optimizer, steps, tuple(image_shape))


def plant(function: Callable) -> Callable:
    """Adds a Python function to a step, which no device can run."""

    def planted(*arguments):
        first, *others = function(*arguments)
        stray = tf.py_function(lambda x: x, [first], tf.float32)
        return (first + tf.ensure_shape(stray, first.shape), *others)

    return planted


def _images(batch_size, image_shape, dtype):
    return tf.TensorSpec([batch_size, *image_shape], dtype)


def train_step(parts: Parts, batch_size: int, planted=False) -> Program:
    """One replica's training step, the optimiser's update included."""
    step = parts.steps._replica_step
    return Program(
        "train step",
        tf.function(plant(step) if planted else step),
        (
            _images(batch_size, parts.image_shape, tf.uint8),
            tf.TensorSpec([batch_size], tf.int32),
            tf.TensorSpec([], tf.bool),
        ),
    )


def eval_step(parts: Parts, batch_size: int) -> Program:
    """One replica's evaluation of a padded batch."""
    return Program(
        "eval step",
        tf.function(parts.steps._replica_eval),
        (
            _images(batch_size, parts.image_shape, tf.uint8),
            tf.TensorSpec([batch_size], tf.int32),
            tf.TensorSpec([batch_size], tf.bool),
            tf.TensorSpec([], tf.int32),
        ),
    )


def endpoints(parts: Parts, batch_size: int) -> Iterator[Program]:
    """The functions of the SavedModel, for one batch size."""
    with tempfile.TemporaryDirectory() as folder:
        asset = files.join(folder, "asset")
        files.write_json(asset, {})
        shape = parts.image_shape
        to_logits, _ = export._reading(parts.model, shape)
        saved = export._Endpoints(parts.model, shape, asset, to_logits)
    images = _images(batch_size, parts.image_shape, tf.float32)
    # A new `tf.function`, since signatures have a free batch size.
    for name, endpoint in saved.signatures().items():
        if name == "serving_default":  # Another name of one of them.
            continue
        if len(endpoint.input_signature) == 1:
            yield Program(f"endpoint {name}", tf.function(endpoint), (images,))
            continue
        # The number of draws decides a shape; audits give it as a constant.
        yield Program(
            f"endpoint {name}",
            tf.function(
                lambda x, seed, endpoint=endpoint: endpoint(
                    x, seed, parts.model.num_samples
                )
            ),
            (images, tf.TensorSpec([2], tf.int32)),
        )


def logits_of(parts: Parts) -> Callable:
    """What an audit attacks: the model in its noisiest mode."""
    model = parts.model

    def logits_fn(images, seed):
        if not model.is_stochastic:
            return model(images, training=False)
        return model(
            images,
            training=False,
            mode="stochastic",
            noise_seed=seed,
            sampling=modes.sampling(model),
        )

    return logits_fn


def attack_cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    """(label, config section, norm) of all attacks that can be traced."""
    for name in plugins.names("attacks"):
        for more in ({}, *_VARIANTS.get(name, ())):
            section = {"name": name, **more}
            try:
                if plugins.build("attacks", section).runs_eagerly:
                    continue
            except UserError:  # Of a library that is not installed.
                continue
            norms = ("linf", "l2") if not more else ("linf",)
            for norm in norms:
                yield (
                    " ".join([name, *map(str, more.values()), norm]),
                    (section),
                    norm,
                )


def attack(
    logits_fn, label: str, section, norm, batch_size, image_shape
) -> Iterator[Program]:
    """Start, steps and end of one attack, and the judge."""
    logits = _static(logits_fn)
    judge = judging.Judge(logits, norm, 2, batch_size)
    attack = plugins.build("attacks", section)
    engine = engines.Engine(logits, attack, judge, norm, batch_size)
    images = _images(batch_size, image_shape, tf.float32)
    labels = tf.TensorSpec([batch_size], tf.int32)
    example_seeds = tf.TensorSpec([batch_size, 2], tf.int32)
    scalar = tf.TensorSpec([], tf.float32)
    count = tf.TensorSpec([], tf.int32)
    numbers = tf.nest.map_structure(_spec_of, base.numbers(attack))
    start = tf.function(engine._start_traced, autograph=False)
    specs = (images, labels, example_seeds, labels, scalar, numbers)
    state, record = tf.nest.map_structure(
        _spec_of, start.get_concrete_function(*specs).structured_outputs
    )
    yield Program(f"{label}: start", start, specs)
    yield Program(
        f"{label}: steps",
        tf.function(engine._advance_traced, autograph=False),
        (state, record, count, count, numbers),
    )
    if not attack.evaluates_proposal:
        yield Program(
            f"{label}: end",
            tf.function(engine._finish_traced, autograph=False),
            (
                images,
                tf.TensorSpec([batch_size], tf.float32),
                record,
                images,
                labels,
                example_seeds,
                scalar,
                count,
            ),
        )


def _static(logits_fn):
    """The model as it is compiled for a TPU: for static batch sizes."""
    return compiled.CompiledLogits(logits_fn, jit_compile=True)


def _spec_of(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def judge(logits_fn, norm, batch_size, image_shape) -> Program:
    """The judgement on candidates by fresh draws."""
    images = _images(batch_size, image_shape, tf.float32)
    made = judging.Judge(_static(logits_fn), norm, 2, batch_size)
    return Program(
        f"judge {norm}",
        tf.function(made._judge),
        (
            images,
            images,
            tf.TensorSpec([batch_size], tf.int32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.int32),
        ),
    )
