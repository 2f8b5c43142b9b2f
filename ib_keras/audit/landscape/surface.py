"""The loss on a plane through an image, and how it looks to gradients.

A point of the plane is clip(x + a u + b v, 0, 1). Both axes are in units of
epsilon: u goes from the clean image x towards the worst image that the attack
found, v is random, and each has length epsilon in the threat model's norm. So
(0, 0) is the clean image and (1, 0) the attack's, where that used the whole
radius. As in an attack, points stay in the box: where a pixel reaches 0 or 1
the plane bends, and the distance to x is that of the clipped point. A point is
in the ball if it is within epsilon of x; the ball then is a diamond for linf
(|a| + |b| <= 1 wherever the signs of u and v mix and no pixel is clipped) and
a disc for l2. Points outside show the surroundings of the ball; they are in no
number.

For a model with noise each point has its own draws, so the surface is rough by
the noise of the draws; `num_draws` averages over more.

References:
    Korshunova et al., "A closer look at the adversarial robustness of
    information bottleneck models", 2021, figures 4 and 10.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras import watchdog
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.errors import UserError
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# A gradient whose largest entry is below it counts as zero.
FLAT = 1e-8
_SLACK = 1e-6  # Tolerance for float32 in deciding what is in the ball.
_RANDOM, _SECOND_RANDOM = 1, 2


class Plane(NamedTuple):
    """The plane of one example.

    Attributes:
        image: float32 `[height, width, channels]`, the clean image.
        label: Its class.
        first: float32, as `image`: u, of length epsilon.
        second: float32, as `image`: v, of length epsilon.
        attack_at: Where on the first axis the attack's image is, in units of
            epsilon; 0 where the attack did not move, and u then is random.
        threat_model: The ball.
    """

    image: np.ndarray
    label: int
    first: np.ndarray
    second: np.ndarray
    attack_at: float
    threat_model: ThreatModel

    def images_at(self, coefficients: np.ndarray) -> np.ndarray:
        """The images at `[n, 2]` coefficients, in ball and box."""
        points, _ = _points(
            self.threat_model,
            tf.constant(self.image),
            tf.constant(self.first),
            tf.constant(self.second),
            tf.constant(coefficients, tf.float32),
        )
        clean = tf.broadcast_to(self.image, points.shape)
        return geometry.ball(clean, self.threat_model).project(points).numpy()


class Landscape(NamedTuple):
    """The values of a model on a plane.

    Maps are `[grid, grid]`: rows follow the second axis, columns the first.

    Attributes:
        first_axis: float32 `[grid]`, a, in units of epsilon.
        second_axis: float32 `[grid]`, b, in units of epsilon.
        cross_entropy: float32, in nats.
        margin: float32, largest other logit - logit of the label: above 0 is
            misclassified. NaN where a logit is not finite.
        gradient_norm: float32, largest |gradient| of the cross-entropy over
            pixels; -1 where none was taken.
        margin_gradient_norm: float32, the same of the margin.
        distance: float32, of the point from the clean image, in units of
            epsilon.
        in_ball: bool, whether that is 1 or less.
        attack_at: As in `Plane`.
        attack_cross_entropy: At the attack's own image.
        attack_margin: Likewise.
    """

    first_axis: np.ndarray
    second_axis: np.ndarray
    cross_entropy: np.ndarray
    margin: np.ndarray
    gradient_norm: np.ndarray
    margin_gradient_norm: np.ndarray
    distance: np.ndarray
    in_ball: np.ndarray
    attack_at: float
    attack_cross_entropy: float
    attack_margin: float


class Numbers(NamedTuple):
    """The summary of a landscape inside the ball.

    Attributes:
        flat_share: Share of points where the gradient of the cross-entropy
            is below 1e-8; None where no gradient was taken.
        margin_flat_share: The same of the margin.
        curvature: Mean |second difference| of the cross-entropy along the two
            axes, in nats per epsilon^2.
        margin_curvature: The same of the margin, in logits per epsilon^2.
        wrong_share: Share of points that are misclassified.
        highest_cross_entropy: Of all points.
        highest_margin: Of all points.
        is_constant: Whether the margin is the same on the whole plane, ball
            or not: then there is nothing to find, and flatness says nothing.
    """

    flat_share: float | None
    margin_flat_share: float | None
    curvature: float
    margin_curvature: float
    wrong_share: float
    highest_cross_entropy: float
    highest_margin: float
    is_constant: bool


def _norm(direction: np.ndarray, threat_model: ThreatModel) -> float:
    flat = np.asarray(direction, np.float64).ravel()
    return float(
        np.linalg.norm(flat, {"linf": np.inf, "l2": 2}[threat_model.norm])
    )


def _scaled(direction, threat_model) -> np.ndarray:
    length = _norm(direction, threat_model)
    return (direction * (float(threat_model.epsilon) / length)).astype(
        np.float32
    )


def _random(shape, threat_model, seed, orthogonal_to=None) -> np.ndarray:
    """Signs for linf; for l2 normal numbers, orthogonal if asked."""
    if threat_model.norm == "linf":
        unit = seeds.uniform(seed[None], shape, -1.0, 1.0)[0].numpy()
        return _scaled(np.where(unit < 0, -1.0, 1.0), threat_model)
    direction = seeds.normal(seed[None], shape)[0].numpy().astype(np.float64)
    if orthogonal_to is not None:
        other = orthogonal_to / np.linalg.norm(orthogonal_to.ravel())
        direction -= other * (other * direction).sum()
    return _scaled(direction, threat_model)


def plane(
    image: np.ndarray,
    label: int,
    threat_model: ThreatModel,
    worst_direction: np.ndarray,
    seed: tf.Tensor,
) -> Plane:
    """The plane of an attack's direction and a random one.

    Args:
        image: float32 `[height, width, channels]` in [0, 1].
        label: Its class.
        threat_model: Its epsilon must be above 0.
        worst_direction: As `image`: the attack's image - `image`.
        seed: int32 `[2]`, of the random direction.

    Returns:
        The `Plane`.

    Raises:
        UserError: If epsilon is 0, or shapes differ.
    """
    image = np.asarray(image, np.float32)
    worst = np.asarray(worst_direction, np.float64)
    epsilon = float(threat_model.epsilon)
    if not epsilon:
        raise UserError(
            "A ball of radius 0 has no landscape",
            received="epsilon=0",
            expected="epsilon above 0",
            fix="Audit at another epsilon.",
        )
    if worst.shape != image.shape:
        raise UserError(
            "The direction does not fit the image",
            received=f"shape {worst.shape} for an image {image.shape}",
            expected="the attack's image - the clean image",
            fix="Take both from the same example.",
        )
    attack_at = _norm(worst, threat_model) / epsilon
    if attack_at:
        first = _scaled(worst, threat_model)
    else:
        first = _random(
            image.shape, threat_model, seeds.fold(seed, _SECOND_RANDOM)
        )
    second = _random(
        image.shape, threat_model, seeds.fold(seed, _RANDOM), first
    )
    return Plane(image, int(label), first, second, attack_at, threat_model)


def _points(threat_model, image, first, second, coefficients):
    """Images of the plane, cut with the box; how far they are from `image`."""
    along = coefficients[:, 0, None, None, None]
    across = coefficients[:, 1, None, None, None]
    points = tf.clip_by_value(image + along * first + across * second, 0.0, 1.0)
    ball = geometry.ball(tf.broadcast_to(image, tf.shape(points)), threat_model)
    return points, ball.distance(points)


class LandscapeEvaluator:
    """Evaluates a model on planes, by one compiled function.

    Args:
        logits_fn: The model.
        threat_model: The ball of all planes.
        grid: Points along each axis, an odd number, so that the clean image
            is one of them.
        span: Where the axes end, in units of epsilon.
        num_draws: Draws of the model's noise at each point: losses and
            gradients are averages over them. 1 where there is no noise.
        batch_size: Points on the device at once.
        take_gradients: False for a model that has none.

    Raises:
        UserError: If grid or span cannot be used.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        threat_model: ThreatModel,
        *,
        grid: int = 41,
        span: float = 1.25,
        num_draws: int = 1,
        batch_size: int = 256,
        take_gradients: bool = True,
    ):
        if base.check_count("grid", grid, 5) % 2 == 0:
            raise UserError(
                "The grid has no point at the clean image",
                received=f"grid={grid}",
                expected="an odd number, 5 or more",
                fix=f"Set grid to {grid + 1}.",
            )
        if not 1 <= span < np.inf:
            raise UserError(
                "The axes do not hold the ball",
                received=f"span={span}",
                expected="1 or more, in units of epsilon",
                fix="Set span to 1.25.",
            )
        # On the one device that this process uses.
        self._logits = compiled.on(logits_fn, None, strategies.jit_compile())
        self._threat_model = threat_model
        self._axis = np.linspace(-span, span, grid).astype(np.float32)
        self._axis[grid // 2] = 0.0
        self._num_draws = num_draws
        self._batch_size = batch_size
        self._take_gradients = take_gradients

    @property
    def gradient_evaluations(self) -> int:
        """Gradients of one evaluation; 0 without gradients."""
        points = len(self._axis) ** 2 + 1
        return 2 * self._num_draws * points * self._take_gradients

    def _ask(self, coefficients, image, *shared):
        self._logits.resolve(tf.TensorShape([self._batch_size, *image.shape]))
        key = (
            "landscape",
            self._threat_model,
            self._num_draws,
            self._take_gradients,
        )
        return self._logits.compiled(key, lambda: self._ask_traced)(
            self._batch_size, (coefficients,), (image, *shared)
        )

    def _ask_traced(self, coefficients, image, label, first, second, seed):
        images, distance = _points(
            self._threat_model, image, first, second, coefficients
        )
        labels = tf.fill(tf.shape(coefficients)[:1], label)
        if not self._take_gradients:
            return self._without_gradients(images, labels, seed) + (distance,)
        by_loss = [
            base.evaluate_gradient(
                self._logits,
                lambda logits, loss=loss: loss(logits, labels),
                images,
                labels,
                seed,
                self._num_draws,
            )[0]
            for loss in (losses.cross_entropy, losses.margin)
        ]
        return (
            by_loss[0].loss,
            by_loss[0].margin,
            by_loss[0].gradient_norm,
            by_loss[1].gradient_norm,
            distance,
        )

    def _without_gradients(self, images, labels, seed):
        def ask(seed):
            return (self._logits(images, seed),)

        if self._num_draws > 1:
            (logits,) = base.mean_over_draws(ask, seed, self._num_draws)
        else:
            (logits,) = ask(base.draw_seed(seed, 0))
        said = base.evaluated(
            images, logits, labels, losses.cross_entropy(logits, labels)
        )
        return said.loss, said.margin, said.gradient_norm, said.gradient_norm

    def __call__(self, plane: Plane, seed: tf.Tensor) -> Landscape:
        """Evaluates one plane.

        Args:
            plane: From `plane`.
            seed: int32 `[2]`, of the model's noise.

        Returns:
            The `Landscape`.
        """
        grid = len(self._axis)
        second, first = np.meshgrid(self._axis, self._axis, indexing="ij")
        pairs = np.stack([first.ravel(), second.ravel()], axis=1)
        pairs = np.append(pairs, [[plane.attack_at, 0.0]], axis=0)
        parts = []
        for begin in range(0, len(pairs), self._batch_size):
            watchdog.beat()
            some = pairs[begin : begin + self._batch_size]
            padded = np.zeros((self._batch_size, 2), np.float32)
            padded[: len(some)] = some
            found = self._ask(
                tf.constant(padded),
                tf.constant(plane.image),
                tf.constant(plane.label),
                tf.constant(plane.first),
                tf.constant(plane.second),
                seeds.fold(seed, begin),
            )
            parts.append([part.numpy()[: len(some)] for part in found])
        whole = [np.concatenate(part) for part in zip(*parts, strict=True)]
        *maps, distance = (part[:-1].reshape(grid, grid) for part in whole)
        epsilon = float(self._threat_model.epsilon)
        return Landscape(
            self._axis,
            self._axis,
            *maps,
            distance=distance / np.float32(epsilon),
            in_ball=distance <= epsilon + _SLACK,
            attack_at=plane.attack_at,
            attack_cross_entropy=float(whole[0][-1]),
            attack_margin=float(whole[1][-1]),
        )


def compute(
    logits_fn: LogitsFn,
    image: np.ndarray,
    label: int,
    threat_model: ThreatModel,
    worst_direction: np.ndarray,
    seed: int = 0,
    **arguments,
) -> Landscape:
    """Evaluates the plane of one example.

    Args:
        logits_fn: The model.
        image: float32 `[height, width, channels]` in [0, 1].
        label: Its class.
        threat_model: The ball.
        worst_direction: As `image`: the attack's image - `image`.
        seed: A whole number: of the random direction and the model's noise.
        **arguments: Those of `LandscapeEvaluator`.

    Returns:
        The `Landscape`.

    Raises:
        UserError: As `plane` and `LandscapeEvaluator`.

    Example:
        >>> model = lambda x, seed: tf.reshape(x, [-1, 2]) * [[-9.0, 9.0]]
        >>> found = compute(
        ...     model,
        ...     np.full([1, 2, 1], 0.5),
        ...     1,
        ...     ThreatModel("linf", 0.1),
        ...     np.full([1, 2, 1], -0.1),
        ...     grid=5,
        ...     span=1.0,
        ... )
        >>> round(describe(found).highest_margin, 3)
        -7.2
    """
    seed = seeds.from_int(seed)
    evaluator = LandscapeEvaluator(logits_fn, threat_model, **arguments)
    return evaluator(
        plane(image, label, threat_model, worst_direction, seed), seed
    )


def describe(landscape: Landscape) -> Numbers:
    """Summarises a landscape inside the ball."""
    inside = landscape.in_ball
    margin = landscape.margin
    return Numbers(
        flat_share=_flat_share(landscape.gradient_norm, inside),
        margin_flat_share=_flat_share(landscape.margin_gradient_norm, inside),
        curvature=_curvature(landscape, landscape.cross_entropy),
        margin_curvature=_curvature(landscape, margin),
        # A tie of two logits can be decided either way, and NaN is no success.
        wrong_share=float((margin[inside] > 0).mean()),
        highest_cross_entropy=_highest(landscape.cross_entropy[inside]),
        highest_margin=_highest(margin[inside]),
        is_constant=_is_constant(margin),
    )


def _flat_share(norms: np.ndarray, inside: np.ndarray) -> float | None:
    norms = norms[inside]
    if (norms == -1).all():
        return None
    return float(((norms >= 0) & (norms < FLAT)).mean())


def _highest(values: np.ndarray) -> float:
    return float(np.where(np.isfinite(values), values, -np.inf).max())


def _curvature(landscape: Landscape, values: np.ndarray) -> float:
    """Mean |second difference| / step^2 over triples inside the ball."""
    step = float(landscape.first_axis[1] - landscape.first_axis[0])
    found = []
    for turned, inside in (
        (values.astype(np.float64), landscape.in_ball),
        (values.T.astype(np.float64), landscape.in_ball.T),
    ):
        second = turned[2:] - 2 * turned[1:-1] + turned[:-2]
        whole = inside[2:] & inside[1:-1] & inside[:-2]
        found.append(second[whole & np.isfinite(second)])
    differences = np.abs(np.concatenate(found))
    return float(differences.mean() / step**2) if differences.size else 0.0


def _is_constant(margin: np.ndarray) -> bool:
    """Whether the points differ by no more than float32 rounding."""
    if not np.isfinite(margin).all():
        return False
    return bool(np.ptp(margin) <= 1e-6 * max(1.0, np.abs(margin).max()))
