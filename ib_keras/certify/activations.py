"""Functions of one number between two lines: the relaxations of CROWN.

On an interval [l, u] and for any slope s, the function f lies between the
lines s x + t with t the least and the largest f(x) - s x. These are found
exactly, for f(x) - s x is extreme at an end or where f'(x) = s, which each
`Activation` knows in closed form. So a slope can be chosen freely, by a rule or
by gradient: the line is sound whatever it is.

References:
    Zhang et al., "Efficient neural network robustness certification with
    general activation functions" (CROWN), NeurIPS 2018;
    Singh et al., "An abstract domain for certifying neural networks"
    (the slopes of S-shaped functions), POPL 2019.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Half the distance from 1 to the next float32.
UNIT = 2.0**-24
# What a library's tanh, exp, log and the like may be wrong by, as a multiple of
# UNIT: TensorFlow's kernels and XLA's measure at most 9.
FUNCTION_UNITS = 32.0

Function = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of one number.

    Attributes:
        value: f, of float64 tensors.
        slope: f'; at a kink either side's.
        touching: The points where f' is a given slope, and the kinks; NaN
            where there is none.
        bend: "convex", "concave", or "s": convex below 0, concave above.
        relative: Its rounding error in float32 as a share of |f(x)|.
        absolute: What comes to that whatever f(x) is.
    """

    value: Function
    slope: Function
    touching: Callable[[tf.Tensor], list[Any]]
    bend: str
    relative: float = FUNCTION_UNITS * UNIT
    absolute: float = 0.0

    def range(self, low, high):
        """The least and the largest value on [low, high]."""
        return self.offsets(tf.zeros_like(low), low, high)

    def offsets(self, slope, low, high):
        """The least and the largest f(x) - slope * x on [low, high]."""
        points = [low, high]
        for x in self.touching(slope):
            # The derivative with respect to the slope is -x at the extreme.
            x = tf.stop_gradient(x + tf.zeros_like(low))
            x = tf.where(tf.math.is_nan(x), low, x)
            points.append(tf.clip_by_value(x, low, high))
        gaps = [self.value(x) - slope * x for x in points]
        return (
            tf.reduce_min(tf.stack(gaps), axis=0),
            tf.reduce_max(tf.stack(gaps), axis=0),
        )

    def slopes(self, low, high):
        """The slopes of the lower and of the upper line that CROWN takes."""
        width = high - low
        middle = self.slope((low + high) / 2)
        is_wide = width > 1e-9
        chord = tf.where(
            is_wide,
            (self.value(high) - self.value(low)) / tf.where(is_wide, width, 1),
            middle,
        )
        if self.bend == "convex":
            return middle, chord
        if self.bend == "concave":
            return chord, middle
        flat = tf.minimum(self.slope(low), self.slope(high))
        return tf.where(low >= 0, chord, flat), tf.where(high <= 0, chord, flat)

    def steepness(self, low, high):
        """The least and the largest f' on [low, high], or about."""
        points = [low, high, (low + high) / 2]
        points.append(tf.clip_by_value(tf.zeros_like(low), low, high))
        slopes = tf.stack([self.slope(x) for x in points])
        return tf.reduce_min(slopes, axis=0), tf.reduce_max(slopes, axis=0)

    @property
    def is_lower_free(self) -> bool:
        """Whether another slope of the lower line can be the better one."""
        return self.bend != "concave"

    @property
    def is_upper_free(self) -> bool:
        """Likewise of the upper line."""
        return self.bend != "convex"


def _constant(x):
    return lambda slope: [tf.cast(x, tf.float64)]


def relu(negative_slope: float = 0.0) -> Activation:
    """The identity above 0, `negative_slope` x below."""

    def slope(x):
        one, below = tf.ones_like(x), tf.ones_like(x) * negative_slope
        return tf.where(x > 0, one, below)

    return Activation(
        lambda x: tf.where(x > 0, x, negative_slope * x),
        slope,
        _constant(0.0),
        "convex" if negative_slope <= 1 else "concave",
        relative=2 * UNIT if negative_slope else 0.0,
    )


def maximum(bound) -> Activation:
    """max(x, bound)."""
    return Activation(
        lambda x: tf.maximum(x, bound),
        lambda x: tf.cast(x > bound, x.dtype),
        _constant(bound),
        "convex",
        relative=0.0,
    )


def minimum(bound) -> Activation:
    """min(x, bound)."""
    return Activation(
        lambda x: tf.minimum(x, bound),
        lambda x: tf.cast(x < bound, x.dtype),
        _constant(bound),
        "concave",
        relative=0.0,
    )


def elu(scale: float = 1.0, alpha: float = 1.0) -> Activation:
    """Above 0 scale x, below scale alpha (exp(x) - 1); 0 < alpha."""
    below = scale * alpha

    def value(x):
        negative = below * tf.math.expm1(tf.minimum(x, 0.0))
        return tf.where(x > 0, scale * x, negative)

    def slope(x):
        negative = below * tf.exp(tf.minimum(x, 0.0))
        return tf.where(x > 0, scale * tf.ones_like(x), negative)

    return Activation(
        value,
        slope,
        lambda s: [tf.zeros_like(s), tf.math.log(s / below)],
        # A steeper side below the kink is bent otherwise at the kink.
        "convex" if alpha <= 1 else "s",
        absolute=8 * UNIT * below,
    )


def _sigmoid_touching(slope):
    # p (1 - p) = slope.
    root = tf.sqrt(1.0 - 4.0 * slope)
    x = tf.math.log((1.0 + root) / (1.0 - root))
    return [x, -x]


def _tanh_touching(slope):
    x = tf.atanh(tf.sqrt(1.0 - slope))
    return [x, -x]


def _sigmoid_slope(x):
    return tf.sigmoid(x) * tf.sigmoid(-x)


SIGMOID = Activation(tf.sigmoid, _sigmoid_slope, _sigmoid_touching, "s")
TANH = Activation(tf.tanh, lambda x: 1.0 - tf.tanh(x) ** 2, _tanh_touching, "s")
SOFTPLUS = Activation(
    tf.nn.softplus,
    tf.sigmoid,
    lambda s: [tf.math.log(s) - tf.math.log1p(-s)],
    "convex",
)
EXP = Activation(tf.exp, tf.exp, lambda s: [tf.math.log(s)], "convex")
LOG = Activation(
    tf.math.log,
    lambda x: 1.0 / x,
    lambda s: [1.0 / s],
    "concave",
    absolute=8 * UNIT,
)
SQRT = Activation(
    tf.sqrt,
    lambda x: 0.5 / tf.sqrt(x),
    lambda s: [0.25 / s**2],
    "concave",
    relative=4 * UNIT,
)
SQUARE = Activation(
    tf.square,
    lambda x: 2.0 * x,
    lambda s: [s / 2.0],
    "convex",
    relative=2 * UNIT,
)
ABSOLUTE = Activation(tf.abs, tf.sign, _constant(0.0), "convex", relative=0.0)
RELU6 = Activation(
    lambda x: tf.clip_by_value(x, 0.0, 6.0),
    lambda x: tf.cast((x > 0) & (x < 6), x.dtype),
    lambda slope: [*_constant(0.0)(slope), *_constant(6.0)(slope)],
    "s",
    relative=0.0,
)
# Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
SELU = elu(scale=1.0507009873554805, alpha=1.6732632423543772)
