"""Which examples no image of a ball changes the class of, proved."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.certify import head as heads
from ib_keras.certify.activations import UNIT
from ib_keras.certify.batched import Balls
from ib_keras.certify.bounds import Bounds
from ib_keras.certify.graph import read
from ib_keras.certify.search import METHODS
from ib_keras.certify.search import Search
from ib_keras.errors import unknown_name
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel
from ib_keras.types import check_images
from ib_keras.types import check_labels


class Certificate(NamedTuple):
    """What was proved.

    Attributes:
        is_certified: bool `[examples]`: whether every image of the ball has
            the label's class.
        margin: float64 `[examples]`, a lower bound over the ball of the label's
            score less the best other one; of a mean over several draws, of
            their difference of mean probabilities. NaN where nothing is known.
        method: int `[examples]`, the cheapest of `METHODS` that proved it; -1
            where none did.
    """

    is_certified: np.ndarray
    margin: np.ndarray
    method: np.ndarray


class Certifier:
    """Bounds of one classifier.

    Args:
        logits_fn: `(images, seed) -> logits`. It is asked about one image at a
            time, so noise is that which a batch of one draws from the seed.
        image_shape: (height, width, channels).
        method: The tightest of `METHODS` to try.

    Raises:
        NotCovered: If the model has no bounds; its text says why.
        UserError: If there is no such method.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        image_shape: Sequence[int],
        method: str = "crown",
    ):
        if method not in METHODS:
            raise unknown_name(
                "method of certification", method, METHODS, "Set method."
            )
        self._graph = read(logits_fn, image_shape)
        self.head = heads.find(self._graph)
        bounds = Bounds(self._graph, self.head.scores)
        self._search = Search(bounds, self.head, method)

    @property
    def is_random(self) -> bool:
        """Whether the bounds depend on the seed."""
        return bool(self._graph.drawn)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.head.shape[1]

    def certify(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        epsilon: float | np.ndarray,
        seed: tf.Tensor | None = None,
    ) -> Certificate:
        """Bounds the classifier around images.

        Args:
            images: float32 `[examples, height, width, channels]` in [0, 1].
            labels: int `[examples]`.
            epsilon: Radius of the l_inf balls, which are cut with [0, 1]; one,
                or one an example.
            seed: int32 `[2]`, of the noise that the model draws; the
                certificate is of the classifier with this noise.

        Returns:
            A `Certificate`.

        Raises:
            UserError: If images, labels or epsilon are none.
        """
        images = check_images(images)
        labels = check_labels(labels, len(images), self.num_classes)
        balls = _balls(images, labels, epsilon)
        drawn = self._graph.draw(seeds.from_int(0) if seed is None else seed)
        margin, method = self._search.run(balls, drawn)
        return Certificate(method >= 0, margin, method)

    def radius(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        most: float,
        num_steps: int = 8,
        seed: tf.Tensor | None = None,
    ) -> np.ndarray:
        """The largest radius that is proved of each example, by bisection.

        Args:
            images: As `certify`.
            labels: As `certify`.
            most: The largest radius to try.
            num_steps: Halvings; the radius is found to within
                `most / 2**num_steps`.
            seed: As `certify`.

        Returns:
            float64 `[examples]`: each is proved; 0 where no radius is.

        Raises:
            UserError: As `certify`.
        """
        low, high = np.zeros(len(images)), np.full(len(images), float(most))
        tried = high
        for _ in range(num_steps + 1):
            good = self.certify(images, labels, tried, seed).is_certified
            low = np.where(good, tried, low)
            high = np.where(good, high, tried)
            tried = (low + high) / 2
        return low


def _balls(images, labels, epsilon) -> Balls:
    """The images' balls, cut with the box of images.

    An attack projects in float32, which may round a pixel out of the ball; the
    ball is as much larger.
    """
    radius = np.broadcast_to(_check_epsilon(epsilon), len(images))
    radius = radius.reshape([-1, 1, 1, 1, 1]) + 2 * UNIT
    at = images[:, None].astype(np.float64)
    low, high = np.maximum(at - radius, 0.0), np.minimum(at + radius, 1.0)
    return Balls(at, low, high, labels)


def _check_epsilon(epsilon) -> np.ndarray:
    radii = np.asarray(epsilon, np.float64)
    for radius in np.unique(radii):
        ThreatModel("linf", radius)
    return radii
