"""Bounds of the information in the code z, epoch by epoch, for `model.fit`.

from ib_keras.training.callback import RateCallback
rate = RateCallback(images, labels, every_epochs=5)
model.fit(..., callbacks=[rate])
"""

import keras
import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import types
from ib_keras.attacks import base
from ib_keras.classifier import IBClassifier
from ib_keras.errors import UserError

_BATCH = 256


class RateCallback(keras.callbacks.Callback):
    """Adds bounds of mutual informations, in nats, to the logs of an epoch.

    `information_images`: the rate, an upper bound of I(Z; X), or, where the
    marginal is conditional on the class as in CEB, of I(Z; X | Y).
    `information_labels`: H(Y) - E[-log q(y|z)], a lower bound of I(Z; Y); it
    can be below 0 for a decoder that is worse than guessing. Both hold up to
    the error of estimates from so many images, H(Y) being that of their labels.

    `History`, `TensorBoard`, `CSVLogger` and others log them, if they come
    later in the list of callbacks. The model is called with `training=False`.

    Args:
        images: float `[examples, height, width, channels]` in [0, 1].
        labels: int `[examples]`.
        every_epochs: Measures after every so many epochs.
        seed: A whole number; every epoch draws the same noise.

    Raises:
        UserError: If images or labels cannot be used, or, when training
            begins, the model is not an `IBClassifier` with a rate.

    References:
        Alemi et al., "Deep variational information bottleneck", 2017, section
        3; Fischer, "The conditional entropy bottleneck", 2020.
    """

    def __init__(self, images, labels, *, every_epochs: int = 1, seed: int = 0):
        super().__init__()
        self.images = types.check_images(images)
        self.labels = np.asarray(labels)
        self.every_epochs = base.check_count("every_epochs", every_epochs)
        self.seed = seeds.from_int(seed)

    def on_train_begin(self, logs=None):
        model = self.model
        if not isinstance(model, IBClassifier) or not model.is_stochastic:
            raise UserError(
                "The model has no rate",
                received=type(model).__name__,
                expected="an IBClassifier with a stochastic bottleneck",
                fix="Leave RateCallback out, or train VIB or CEB.",
            )
        self.labels = types.check_labels(
            self.labels, len(self.images), model.num_classes
        )
        self._terms = tf.function(
            lambda images, labels, seed: model.terms(
                images, labels, seed, model.optimizer.iterations, training=False
            )
        )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs or logs is None:
            return
        rates, losses = [], []
        for first in range(0, len(self.labels), _BATCH):
            rows = slice(first, first + _BATCH)
            terms = self._terms(
                tf.constant(self.images[rows]),
                tf.constant(self.labels[rows]),
                seeds.fold(self.seed, first),
            )
            rates.append(terms.rate.numpy())
            losses.append(terms.cross_entropy.numpy())
        shares = np.bincount(self.labels) / len(self.labels)
        shares = shares[shares > 0]
        entropy = -float(np.sum(shares * np.log(shares)))
        logs["information_images"] = float(np.concatenate(rates).mean())
        logs["information_labels"] = entropy - float(
            np.concatenate(losses).mean()
        )
