"""A small audit every few epochs of `model.fit`, as a Keras callback.

    from ib_keras.audit.callback import AuditCallback
    audit = AuditCallback(images, labels, epsilon=0.1, every_epochs=5)
    model.fit(..., callbacks=[audit])

It shows the trend while a model trains. It is not evidence: a weak attack on
few images gives an upper bound that can be far too high. Use `ib_keras.audit`
for evidence.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ib_keras import types
from ib_keras.attacks import base
from ib_keras.attacks import outputs as readers
from ib_keras.attacks import runner
from ib_keras.errors import unknown_name

PROTOCOLS = ("fgs", "pgd")


class AuditCallback(keras.callbacks.Callback):
    """Adds `robust_accuracy` to the logs of an epoch.

    Also `clean_accuracy`, on the same images, and `gradient_evaluations`, the
    cost. So `History`, `TensorBoard`, `CSVLogger`,
    `EarlyStopping(monitor="robust_accuracy", mode="max")` and others use
    them, if they come later in the list of callbacks. As with Keras'
    `validation_freq`, epochs without an audit have no such entries.

    The model is called with `training=False`, and all variables that are not
    trained (moving averages, states of random generators) are restored
    afterwards, so training continues as without the audit. An `IBClassifier` is
    audited in mean mode. The attack is compiled at the first audit and used
    again at the later ones.

    Args:
        images: `[examples, height, width, channels]` in [0, 1]; some hundreds
            not in the training set.
        labels: int `[examples]`.
        epsilon: Radius in pixel units of [0, 1].
        protocol: "fgs" (one step), "pgd" (10 steps of epsilon / 4), or stages
            as in `configs/audits/`: name -> `{num_restarts, attack}`.
        every_epochs: Audits after every so many epochs.
        norm: "linf" or "l2".
        output: Name of the classes' scores among several tensors.
        outputs: What the model returns, "logits", "log_probabilities" or
            "probabilities"; None infers it. The attack uses the logarithm
            of probabilities, which saturates: prefer models that return
            logits.
        batch_size: Largest batch.
        seed: A whole number; every audit draws the same numbers.

    Raises:
        UserError: If images, labels or another argument cannot be used.

    Example:
        >>> images = np.random.default_rng(0).random((8, 4, 4, 1), np.float32)
        >>> labels = np.arange(8) % 2
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> audit = AuditCallback(images, labels, epsilon=0.1)
        >>> logs = model.fit(images, labels, verbose=0, callbacks=[audit])
        >>> len(logs.history["robust_accuracy"])
        1
    """

    def __init__(
        self,
        images,
        labels,
        *,
        epsilon: float,
        protocol: str | Mapping[str, Any] = "fgs",
        every_epochs: int = 1,
        norm: str = "linf",
        output: str | None = None,
        outputs: str | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ):
        super().__init__()
        self.images = types.check_images(images)
        self.labels = np.asarray(labels)
        self.every_epochs = base.check_count("every_epochs", every_epochs)
        self.threat_model = types.ThreatModel(norm, epsilon)
        self.stages = _stages(protocol, self.threat_model.epsilon)
        if outputs not in (None, *types.KINDS):
            raise unknown_name(
                "kind of outputs", outputs, types.KINDS, "Set outputs to one."
            )
        self.output = output
        self.outputs = outputs
        self.batch_size = base.check_count("batch_size", batch_size)
        self.seed = seed
        self._runner = None

    def set_model(self, model):
        if model is not self._model:
            self._runner = None  # Compiled for another model.
        super().set_model(model)

    def on_train_begin(self, logs=None):
        if self.model.built:
            with _unchanged(self.model):
                self._prepare()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs:
            return
        with _unchanged(self.model):
            self._prepare()
            progress = self._runner.start(self.images, self.labels)
            ledger = self._runner.run(self.images, progress)
        if logs is not None:
            logs["robust_accuracy"] = ledger.robust_accuracy
            logs["clean_accuracy"] = ledger.clean_accuracy
            logs["gradient_evaluations"] = int(
                ledger.gradient_evaluations.sum()
            )

    def _prepare(self):
        """Builds the runner, once; errors of the model are raised here."""
        if self._runner is not None:
            return
        model = self.model
        read, num_classes, _ = readers.reader(
            lambda images: model(images, training=False),
            self.images,
            self.output,
            self.outputs,
        )
        self.labels = types.check_labels(
            self.labels, len(self.images), num_classes
        )

        def logits_fn(images, noise_seed):
            del noise_seed  # Only the attack is random.
            return read(images)

        self._runner = runner.Runner(
            logits_fn,
            self.stages,
            self.threat_model,
            batch_size=min(self.batch_size, len(self.images)),
            seed=self.seed,
        )


class _unchanged:  # noqa: N801  A context manager reads like a word.
    """Restores the variables that a call may change but training does not."""

    def __init__(self, model):
        self._variables = [v for v in model.variables if not v.trainable]

    def __enter__(self):
        self._values = [tf.identity(v.value) for v in self._variables]

    def __exit__(self, *unused):
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def _stages(protocol, epsilon: float) -> list[runner.Stage]:
    """The stages of a small protocol, or of one as configs have it."""
    if isinstance(protocol, str):
        sections = {
            "fgs": {"name": "fgs"},
            "pgd": {"name": "pgd", "num_steps": 10, "step_size": epsilon / 4},
        }
        if protocol not in sections:
            raise unknown_name(
                "small protocol",
                protocol,
                PROTOCOLS,
                "Or give stages: name -> {num_restarts, attack}.",
            )
        protocol = {protocol: {"attack": sections[protocol]}}
    return [
        runner.Stage.build({"name": name, **section})
        for name, section in protocol.items()
    ]
