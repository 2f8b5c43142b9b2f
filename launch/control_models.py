"""Controls: planted models whose correct verdict is known.

A tool that judges models has to show that it can distinguish good from bad
ones. Each control is a small model with a known fault, or one without a fault;
an audit of it must end in the verdict that is given here. The networks are
trained here, on scikit-learn's digits, in seconds.

References:
    Carlini et al., "On evaluating adversarial robustness", 2019, section 4.5;
    Athalye et al., "Obfuscated gradients give a false sense of security",
    ICML 2018.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from ib_keras.audit import audited_model
from ib_keras.audit import folder as folders
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects
from ib_keras.audit import verdict
from ib_keras.audit.config import AuditConfig
from ib_keras.audit.config import Diagnostics
from ib_keras.audit.config import ThreatModel
from ib_keras.audit.examples import Examples
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

EPSILON = 0.1
NUM_CLASSES = 10
SHAPE = (8, 8, 1)
REFUSED = "refused"

_NUM_EXAMPLES = 100
NUM_TRAIN = 1200
_SEED = 0

# The possible verdicts, from best to worst.
OUTCOMES = (*verdict.LABELS, REFUSED)


@dataclasses.dataclass(frozen=True)
class Control:
    """One planted model.

    Attributes:
        name: In the table.
        expected: One of `OUTCOMES`.
        why: The planted fault, and what must be detected.
        make: Gives the model: `(images) -> scores`, or where `mode` is
            stochastic `(images, seed, num_samples) -> scores`.
        is_honest: Whether nothing is wrong with it.
        mode: "mean" or "stochastic".
        protocol: "ensemble" (AutoPGD on cross-entropy and on DLR), "pgd" or
            "fgs".
        data: Gives images and labels.
    """

    name: str
    expected: str
    why: str
    make: Callable[[], Callable]
    is_honest: bool = False
    mode: str = "mean"
    protocol: str = "ensemble"
    data: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None


def _protocol(name):
    apgd = {"name": "apgd", "num_steps": 50}
    stages = {
        "ensemble": {
            "apgd_ce": {"num_restarts": 3, "attack": apgd},
            "apgd_dlr": {
                "num_restarts": 3,
                "attack": {**apgd, "loss": "dlr"},
            },
        },
        "pgd": {
            "pgd": {
                "num_restarts": 3,
                "attack": {"name": "pgd", "num_steps": 40, "step_size": 0.02},
            }
        },
        "fgs": {"fgs": {"num_restarts": 1, "attack": {"name": "fgs"}}},
    }
    return stages[name]


def _config(control: Control) -> dict[str, Any]:
    return AuditConfig(
        protocol=f"controls_{control.protocol}",
        seed=_SEED,
        mode=control.mode,
        num_examples=_NUM_EXAMPLES,
        batch_size=_NUM_EXAMPLES,
        threat_model=ThreatModel("linf", EPSILON),
        stages=_protocol(control.protocol),
        diagnostics=Diagnostics(num_examples=_NUM_EXAMPLES),
    ).to_dict()


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Shuffled images and labels; the first `NUM_TRAIN` are trained on."""
    found = load_digits()
    images = (found.images / 16.0).astype(np.float32)[..., None]
    order = np.random.default_rng(_SEED).permutation(len(images))
    return images[order], found.target[order].astype(np.int32)


def test_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that nothing here is trained on."""
    images, labels = digits()
    return images[NUM_TRAIN:], labels[NUM_TRAIN:]


def _blocks():
    """Class k has its own four pixels bright, the others dark."""
    rng = np.random.default_rng(_SEED)
    labels = np.tile(np.arange(NUM_CLASSES, dtype=np.int32), 50)
    flat = rng.uniform(0.0, 0.1, (len(labels), 64)).astype(np.float32)
    for pixel in range(4):
        flat[np.arange(len(labels)), 4 * labels + pixel] += 0.85
    return flat.reshape(-1, *SHAPE), labels


def _network(*hidden):
    keras.utils.set_random_seed(_SEED)
    layers = [keras.layers.Dense(units, "relu") for units in hidden]
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            *layers,
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def _train(model, num_steps, attack_steps=0):
    """Trains on digits; with attack steps, on PGD's images of the batch."""
    images, labels = (part[:NUM_TRAIN] for part in digits())
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(model.trainable_variables)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y, start):
        moved = tf.clip_by_value(x + start, 0.0, 1.0) if attack_steps else x
        for _ in range(attack_steps):
            with tf.GradientTape() as tape:
                tape.watch(moved)
                loss = loss_fn(y, model(moved))
            moved += 0.03 * tf.sign(tape.gradient(loss, moved))
            moved = tf.clip_by_value(moved, x - EPSILON, x + EPSILON)
            moved = tf.clip_by_value(moved, 0.0, 1.0)
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(moved))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )

    rng = np.random.default_rng(_SEED)
    for _ in range(num_steps):
        rows = rng.integers(0, NUM_TRAIN, 128)
        start = rng.uniform(-EPSILON, EPSILON, (128, *SHAPE))
        step(images[rows], labels[rows], start.astype(np.float32))
    return model


@functools.cache
def _linear():
    return _train(_network(), 400)


@functools.cache
def _deterministic():
    return _train(_network(128, 128), 400)


@functools.cache
def _adversarially_trained():
    return _train(_network(128, 128), 600, attack_steps=5)


def _adversarially_trained_cnn():
    keras.utils.set_random_seed(_SEED)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    return _train(model, 600, attack_steps=5)


def _at_most_one(kernel):
    """Kernels that move no unit further than the largest of their inputs."""
    norm = keras.ops.sum(keras.ops.abs(kernel), axis=0)
    return kernel / keras.ops.maximum(norm, 1.0)


def _lipschitz():
    """No logit changes by more than the image does in l_inf."""
    keras.utils.set_random_seed(_SEED)
    dense = [
        keras.layers.Dense(units, activation, kernel_constraint=_at_most_one)
        for units, activation in ((128, "relu"), (NUM_CLASSES, None))
    ]
    body = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), *dense]
    )
    _train(keras.Sequential([body, keras.layers.Rescaling(50.0)]), 1500)
    return body


def _provably_robust():
    # The mean of a class' own pixels is 0.9, of others 0.05: an l_inf step of
    # 0.1 moves their difference by 0.2.
    def scores(images):
        flat = tf.reshape(images, [-1, 64])[:, :40]
        return 10.0 * tf.reduce_mean(tf.reshape(flat, [-1, 10, 4]), axis=2)

    return scores


def _quantised():
    model = _deterministic()
    return lambda x: model(tf.round(4.0 * x) / 4.0 + 0.0 * x)


def _loud():
    model = _deterministic()
    return lambda x: 1000.0 * model(x)


def _loud_in_part():
    """Logits whose scale depends on the image."""
    model = _deterministic()
    brightness = test_digits()[0].mean(axis=(1, 2, 3))
    most = float(np.quantile(brightness, 0.8))

    def logits(x):
        is_loud = tf.reduce_mean(x, axis=[1, 2, 3]) > most
        return tf.where(is_loud, 1000.0, 1.0)[:, None] * model(x)

    return logits


def _faint(offset=0.0):
    model = _deterministic()
    return lambda x: 1e-3 * model(x) + offset


def _hard_labels():
    """The class alone, as an interface on the network may give it."""
    model = _deterministic()

    def scores(images):
        logits = model(images)
        classes = tf.argmax(logits, axis=1)
        return tf.one_hot(classes, NUM_CLASSES) + 0.0 * logits

    return scores


def _staircase():
    """Four smooth steps, on whose treads the gradient almost vanishes."""
    model = _deterministic()

    def scores(images):
        level = tf.floor(4.0 * images)
        rise = tf.sigmoid(100.0 * (4.0 * images - level - 0.5))
        return model((level + rise) / 4.0)

    return scores


def _reversed():
    """Gradients that point back to the class."""
    model = _deterministic()

    @tf.custom_gradient
    def turn(x):
        return tf.identity(x), lambda upstream: -upstream

    return lambda x: model(turn(x))


def _stored_images_alone():
    """A weak network for images that a file can hold, a robust one for others.

    Digits have 17 levels of grey; what an attack sends is between them.
    """
    weak, robust = _deterministic(), _adversarially_trained()

    def scores(images):
        off = tf.abs(16.0 * images - tf.round(16.0 * images))
        is_stored = tf.reduce_all(off < 1e-3, axis=[1, 2, 3])
        return tf.where(is_stored[:, None], weak(images), robust(images))

    return scores


def _probabilities():
    model = _deterministic()
    return lambda x: tf.nn.softmax(model(x))


def _shattered():
    """Gradients of the right size in random directions."""
    model = _deterministic()

    @tf.custom_gradient
    def hide(x):
        def grad(upstream):
            wave = tf.sin(
                1e4 * x + 1e3 * tf.cast(tf.range(8), x.dtype)[:, None]
            )
            return tf.norm(upstream) * wave

        return tf.identity(x), grad

    return lambda x: model(hide(x))


def _batch_statistics():
    model = _deterministic()

    def scores(images):
        logits = model(images)
        mean, variance = tf.nn.moments(logits, axes=[0])
        return (logits - mean) / tf.sqrt(variance + 1e-3)

    return scores


def _nan():
    """NaN for images that are a little brighter than clean ones."""
    model = _deterministic()

    def scores(images):
        corner = images[:, 0, 0, 0]
        return model(images) + tf.where(corner > 0.05, np.nan, 0.0)[:, None]

    return scores


def _counter():
    """Gives other answers after a thousand calls."""
    model = _deterministic()
    calls = tf.Variable(0, dtype=tf.int32, trainable=False)

    class Model:
        variables = (calls,)

        def __call__(self, images):
            count = calls.assign_add(1)
            flip = tf.where(count > 1000, -1.0, 1.0)
            return flip * model(images)

    return Model()


def _noise(images, seed, share):
    unit = tf.random.stateless_uniform([tf.shape(images)[0]], seed)
    return unit < share


def _random_errors():
    """Wrong on one draw of twenty, for every image."""
    model = _deterministic()

    def scores(images, seed, num_samples):
        del num_samples
        logits = model(images)
        return tf.where(
            _noise(images, seed, 0.05)[:, None],
            tf.roll(logits, 1, axis=1),
            logits,
        )

    return scores


def _permuted():
    model = _deterministic()
    return lambda x: tf.roll(model(x), 3, axis=1)


CONTROLS = (
    Control(
        "linear softmax",
        verdict.BELIEVABLE,
        "Nothing: all gradients are correct.",
        _linear,
        is_honest=True,
    ),
    Control(
        "deterministic network",
        verdict.BELIEVABLE,
        "Nothing.",
        _deterministic,
        is_honest=True,
    ),
    Control(
        "adversarially trained network",
        verdict.BELIEVABLE,
        "Nothing: it is partly robust.",
        _adversarially_trained,
        is_honest=True,
    ),
    Control(
        "adversarially trained CNN",
        verdict.BELIEVABLE,
        "Nothing: it is partly robust.",
        _adversarially_trained_cnn,
        is_honest=True,
    ),
    Control(
        "1-Lipschitz network",
        verdict.BELIEVABLE,
        "Nothing: its logits are small, and change slowly.",
        _lipschitz,
        is_honest=True,
    ),
    Control(
        "provably robust model",
        verdict.BELIEVABLE,
        "Nothing: no point of the ball is misclassified.",
        _provably_robust,
        is_honest=True,
        data=_blocks,
    ),
    Control(
        "probabilities for logits",
        verdict.BELIEVABLE,
        "A softmax at the end, which must be detected and inverted.",
        _probabilities,
        is_honest=True,
    ),
    Control(
        "network wrong on 5% of draws",
        verdict.BELIEVABLE,
        "Random errors, which must be reported (D23) and break no example.",
        _random_errors,
        is_honest=True,
        mode="stochastic",
    ),
    Control(
        "logits x 1000, ensemble",
        verdict.BELIEVABLE,
        "The same classifier; its scale is found.",
        _loud,
        is_honest=True,
    ),
    Control(
        "logits x 1000, PGD alone",
        verdict.BELIEVABLE,
        "The same classifier; its scale is found.",
        _loud,
        is_honest=True,
        protocol="pgd",
    ),
    Control(
        "logits x 0.001",
        verdict.BELIEVABLE,
        "The same classifier; its scale is found.",
        _faint,
        is_honest=True,
    ),
    Control(
        "logits x 0.001 + 1000",
        verdict.BELIEVABLE,
        "The same classifier, up to rounding; its scale is found.",
        functools.partial(_faint, 1000.0),
        is_honest=True,
    ),
    Control(
        "logits x 1000 of bright images, PGD alone",
        verdict.UPPER_BOUND,
        "Cross-entropy saturates there.",
        _loud_in_part,
        protocol="pgd",
    ),
    Control(
        "deterministic network, FGS alone",
        verdict.UPPER_BOUND,
        "The attack is too weak.",
        _deterministic,
        protocol="fgs",
    ),
    Control(
        "quantised input",
        verdict.UPPER_BOUND,
        "Gradients are zero everywhere.",
        _quantised,
    ),
    Control(
        "shattered gradients",
        verdict.UPPER_BOUND,
        "Gradients have random directions.",
        _shattered,
    ),
    Control(
        "reversed gradients",
        verdict.UPPER_BOUND,
        "Gradients point away from the boundary.",
        _reversed,
    ),
    Control(
        "hard labels",
        verdict.UPPER_BOUND,
        "There are no gradients, and no logits either.",
        _hard_labels,
    ),
    Control(
        "staircase",
        verdict.UPPER_BOUND,
        "Gradients are almost zero but at four steps.",
        _staircase,
    ),
    Control(
        "images that a file can hold",
        verdict.UPPER_BOUND,
        "Another network answers for images that no file can hold.",
        _stored_images_alone,
    ),
    Control(
        "batch statistics",
        verdict.INVALID,
        "An answer depends on the other images of the batch.",
        _batch_statistics,
    ),
    Control(
        "not a number",
        verdict.INVALID,
        "Logits that are not finite are not evidence.",
        _nan,
    ),
    Control(
        "model that counts its calls",
        verdict.INVALID,
        "It changes its own state, and its answers with it.",
        _counter,
    ),
    Control(
        "permuted labels",
        verdict.INVALID,
        "Class k of the model is class k + 3 of the data.",
        _permuted,
    ),
)


def select(names: Sequence[str] = ()) -> list[Control]:
    """The controls of these names; all of them where none is given.

    Raises:
        UserError: If there is no such control.
    """
    by_name = {control.name: control for control in CONTROLS}
    for name in names:
        if name not in by_name:
            raise unknown_name("control", name, by_name, "Name one of them.")
    return [by_name[name] for name in names] or list(CONTROLS)


def run(control: Control, workdir: str, quiet: bool = True) -> dict[str, Any]:
    """Audits one planted model.

    Args:
        control: Which.
        workdir: The folder of its audit.
        quiet: Prints nothing.

    Returns:
        `name`, `expected`, `verdict`, `is_right`, `clean_accuracy`,
        `robust_accuracy` and `decided_by`; the accuracies are None where the
        model was refused.
    """
    row = {
        "name": control.name,
        "is_honest": control.is_honest,
        "expected": control.expected,
        "clean_accuracy": None,
        "robust_accuracy": None,
    }
    config = _config(control)
    try:
        subject = _subject(control, config)
        summary = runner.audit_subject(config, subject, workdir, quiet=quiet)
    except UserError as error:
        row.update(verdict=REFUSED, decided_by=[str(error)])
    else:
        found = folders.findings(workdir)["verdict"]
        row.update(
            verdict=found["label"],
            decided_by=[f"{r['id']}: {r['why']}" for r in found["decided_by"]],
            clean_accuracy=summary["clean_accuracy"],
            robust_accuracy=summary["robust_accuracy"],
        )
    return {**row, "is_right": row["verdict"] == control.expected}


def _subject(control, config):
    images, labels = (control.data or test_digits)()
    model = control.make()
    is_stochastic = control.mode == "stochastic"
    audited = audited_model.from_function(
        # The planted noise lies around the deterministic network.
        _deterministic() if is_stochastic else model,
        SHAPE,
        NUM_CLASSES,
        stochastic=model if is_stochastic else None,
        num_samples=1,
        name=control.name,
    )
    given = Examples(
        images[:_NUM_EXAMPLES],
        labels[:_NUM_EXAMPLES],
        {"name": "controls", "split": "test", "description": control.why},
        images[:500],
        labels[:500],
    )
    return subjects.load(config, audited, given=given)


def confusion(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each expected verdict became each verdict.

    Args:
        rows: As `run` gives them.

    Returns:
        Expected verdict -> verdict -> count.
    """
    table = {e: dict.fromkeys(OUTCOMES, 0) for e in OUTCOMES}
    for row in rows:
        table[row["expected"]][row["verdict"]] += 1
    return {e: counts for e, counts in table.items() if any(counts.values())}
