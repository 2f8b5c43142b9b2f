"""The ball around an image, intersected with the box [0, 1], per norm.

A ball is a NamedTuple of tensors that begin with the batch axis, so that it
can be part of an attack's state and shrink with the batch.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from ib_keras import seeds
from ib_keras.types import ThreatModel

_TINY = 1e-12


def per_image(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Gives `[batch]` values the axes of an image, to broadcast."""
    ones = [1] * (images.shape.rank - 1)
    return tf.reshape(values, [-1, *ones])


def l2_norm(x: tf.Tensor) -> tf.Tensor:
    """Euclidean norm of each image, `[batch]`, safe against under/overflow."""
    axes = list(range(1, x.shape.rank))
    largest = tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)
    scaled = tf.math.divide_no_nan(x, largest)
    norm = tf.sqrt(tf.reduce_sum(scaled * scaled, axis=axes))
    return norm * tf.reshape(largest, [-1])


class LinfBall(NamedTuple):
    """{x : max |x - clean| <= epsilon} in the box, as bounds per pixel.

    Attributes:
        clean: float32 `[batch, height, width, channels]`, the centre.
        lower: Smallest admissible value of each pixel.
        upper: Largest admissible value of each pixel.
        epsilon: float32 `[batch]`.
    """

    clean: tf.Tensor
    lower: tf.Tensor
    upper: tf.Tensor
    epsilon: tf.Tensor

    def project(self, images):
        """The nearest admissible images."""
        # One pass over memory; `tf.clip_by_value` takes two.
        return tf.raw_ops.ClipByValue(
            t=images, clip_value_min=self.lower, clip_value_max=self.upper
        )

    def steepest(self, gradient):
        """The direction of unit norm that raises the loss the most."""
        return tf.sign(gradient)

    def full_step(self, gradient):
        """From the centre to the surface along `steepest`, in the box."""
        step = per_image(self.epsilon, gradient) * self.steepest(gradient)
        return self.project(self.clean + step)

    def random_point(self, example_seeds):
        """A uniform point of the ball, then clipped to the box."""
        unit = seeds.uniform(
            example_seeds, tuple(self.clean.shape[1:]), -1.0, 1.0
        )
        return self.project(self.clean + per_image(self.epsilon, unit) * unit)

    def random_surface_point(self, example_seeds):
        """As `random_point`, stretched until a pixel is epsilon away.

        AutoAttack's start (before the box cuts it).
        """
        shape = tuple(self.clean.shape[1:])
        unit = seeds.uniform(example_seeds, shape, -1.0, 1.0)
        axes = list(range(1, unit.shape.rank))
        largest = tf.reduce_max(tf.abs(unit), axis=axes)
        scale = self.epsilon / tf.maximum(largest, _TINY)
        return self.project(self.clean + per_image(scale, unit) * unit)

    def distance(self, images):
        """Norm of images - clean, `[batch]`."""
        axes = list(range(1, images.shape.rank))
        return tf.reduce_max(tf.abs(images - self.clean), axis=axes)


class L2Ball(NamedTuple):
    """{x : |x - clean|_2 <= epsilon} in the box.

    Attributes:
        clean: float32 `[batch, height, width, channels]`, the centre.
        epsilon: float32 `[batch]`.
    """

    clean: tf.Tensor
    epsilon: tf.Tensor

    def project(self, images):
        """Admissible images: clipped to the box, then scaled into the ball.

        Scaling towards the centre, which is in the box, does not leave the box,
        so the result is in both sets (not always the nearest one). The other
        order would shorten perturbations and make weaker attacks.
        """
        difference = tf.clip_by_value(images, 0.0, 1.0) - self.clean
        norm = tf.maximum(l2_norm(difference), _TINY)
        factor = tf.minimum(1.0, self.epsilon / norm)
        moved = self.clean + difference * per_image(factor, images)
        return tf.clip_by_value(moved, 0.0, 1.0)

    def steepest(self, gradient):
        """The gradient divided by its norm; zero where it is zero."""
        norm = per_image(l2_norm(gradient), gradient)
        return tf.math.divide_no_nan(gradient, norm)

    def full_step(self, gradient):
        """From the centre to the surface along `steepest`, in the box."""
        step = per_image(self.epsilon, gradient) * self.steepest(gradient)
        return self.project(self.clean + step)

    def random_point(self, example_seeds):
        """A uniform point of the ball, then clipped to the box."""
        shape = tuple(self.clean.shape[1:])
        direction = self.steepest(seeds.normal(example_seeds, shape))
        unit = seeds.uniform(seeds.fold(example_seeds, 1), (1,))[:, 0]
        radius = self.epsilon * tf.pow(unit, 1.0 / math.prod(shape))
        return self.project(
            self.clean + per_image(radius, direction) * direction
        )

    def random_surface_point(self, example_seeds):
        """A uniform point of the sphere, then clipped to the box."""
        shape = tuple(self.clean.shape[1:])
        return self.full_step(seeds.normal(example_seeds, shape))

    def distance(self, images):
        """Norm of images - clean, `[batch]`."""
        return l2_norm(images - self.clean)


Ball = LinfBall | L2Ball


def ball(images: tf.Tensor, threat_model: ThreatModel) -> Ball:
    """The balls of a threat model around a batch of clean images.

    Args:
        images: float32 `[batch, height, width, channels]` in [0, 1].
        threat_model: Its norm chooses the class.

    Returns:
        A `LinfBall` or an `L2Ball`.
    """
    epsilon = tf.cast(threat_model.epsilon, tf.float32)
    per_example = tf.fill([tf.shape(images)[0]], epsilon)
    if threat_model.norm == "l2":
        return L2Ball(images, per_example)
    lower = tf.maximum(images - epsilon, 0.0)
    upper = tf.minimum(images + epsilon, 1.0)
    return LinfBall(images, lower, upper, per_example)
