"""A bottleneck as one Keras layer, for `Sequential` and functional models.

    model = keras.Sequential(
        [cnn, VIBLayer(64, beta=1e-2), keras.layers.Dense(10)]
    )

The layers compute with `VIB` and `CEB`. `IBClassifier` is for several draws a
training step, which would change the batch axis of a layer's output.
"""

import contextlib
import contextvars
import dataclasses
import random
import re
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras import seeds
from ib_keras.bottlenecks import ceb
from ib_keras.bottlenecks import vib
from ib_keras.errors import UserError

# A step after the end of any schedule.
_END = 2**31 - 1


@dataclasses.dataclass
class Draws:
    """How layers draw inside of `drawing`.

    Attributes:
        seed: int32 `[2]`; None for no draw, the mean of p(z|x).
        num_samples: S, draws of each row.
        posteriors: p(z|x) of each call, in order.
    """

    seed: tf.Tensor | None
    num_samples: Any
    posteriors: list = dataclasses.field(default_factory=list)

    def seed_of(self, posterior) -> tf.Tensor:
        """The seed of the next call, whose p(z|x) is stored."""
        self.posteriors.append(posterior)
        count = len(self.posteriors) - 1
        # Two layers must not draw the same noise.
        return seeds.fold(self.seed, count) if count else self.seed


_draws: contextvars.ContextVar[Draws | None] = contextvars.ContextVar(
    "draws", default=None
)


@contextlib.contextmanager
def drawing(seed: tf.Tensor | None, num_samples: Any = 1) -> Iterator[Draws]:
    """Makes bottleneck layers draw by a seed, without side effects.

    A layer called inside returns `[samples * batch, dim]`, all rows of the
    first draw, then all of the second; it adds no rate and writes no variable.

    Args:
        seed: int32 `[2]`; None for the mean, whatever a layer's `stochastic`
            is.
        num_samples: S, an integer or scalar tensor.

    Yields:
        The `Draws`, which store p(z|x).
    """
    draws = Draws(seed, num_samples)
    token = _draws.set(draws)
    try:
        yield draws
    finally:
        _draws.reset(token)


class _Rate(keras.metrics.Mean):
    """The mean rate of the batches of `fit` and `evaluate`.

    A batch is counted when its step reads the metric, not when the layer is
    called: so calls that only compute outputs, as in an export or an attack,
    write no variable.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # By thread: replicas are threads that share the layer.
        self._held = {}

    def hold(self, rates: tf.Tensor) -> None:
        """Stores the rates `[batch]` of a call, until the metric is read."""
        self._held[threading.get_ident()] = rates

    def result(self):
        rates = self._held.pop(threading.get_ident(), None)
        if rates is not None and _is_usable(rates):
            self.update_state(rates)
        return super().result()

    def reset_state(self):
        self._held.clear()
        super().reset_state()


def _is_usable(tensor: tf.Tensor) -> bool:
    """Whether a tensor belongs to the current graph, not an earlier trace."""
    if tf.executing_eagerly() or not tf.is_symbolic_tensor(tensor):
        return tf.executing_eagerly() and not tf.is_symbolic_tensor(tensor)
    return tensor.graph is tf.compat.v1.get_default_graph()


class BottleneckLayer(keras.layers.Layer):
    """What `VIBLayer` and `CEBLayer` share.

    Args:
        bottleneck: The `base.Bottleneck` that computes.
        stochastic: As of `VIBLayer`; may be set on a built layer.
        seed: As of `VIBLayer`.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, bottleneck, stochastic=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        if stochastic not in (None, True, False):
            raise UserError(
                "stochastic is not one of its values",
                received=f"stochastic={stochastic!r}",
                expected="None, True or False",
                fix="None draws in training alone.",
            )
        self.bottleneck = bottleneck
        self.stochastic = stochastic
        self.seed = seed
        self.rate_metric = _Rate(name=_metric_name(self.name))

    def build(self, input_shape):
        layers.check_features(input_shape, f'the layer "{self.name}"')
        layers.ensure_built(self.bottleneck, input_shape)
        # Counts for the schedule; a layer does not see its optimizer.
        self.step = self._add_state("step", (), "zeros")
        # As the state of keras.random.SeedGenerator, but saved with the
        # weights, so that a training which is resumed draws what it would have
        # drawn.
        self.noise_state = self._add_state("noise_state", (2,), self._start)
        self.built = True

    def _add_state(self, name, shape, initializer):
        return self.add_weight(
            shape=shape,
            dtype="int32",
            initializer=initializer,
            trainable=False,
            name=name,
        )

    def _start(self, shape, dtype):
        seed = self.seed
        if seed is None:  # As Keras' own layers take one.
            seed = random.randint(1, 10**9)
        return tf.stack([seeds.from_int(seed)[0], 0])

    def _next_seed(self) -> tf.Tensor:
        seed = tf.identity(self.noise_state.value)
        self.noise_state.assign_add([0, 1])
        return seed

    def compute_output_shape(self, input_shape, *unused):
        return (*input_shape[:-1], self.bottleneck.latent_dim)

    def posterior(self, inputs) -> Any:
        """p(z|x), a `tfp.distributions` object in float32."""
        return self.bottleneck(tf.cast(inputs, tf.float32))

    def _respond(self, inputs, labels, training, stochastic):
        """The output of a call; adds the rate where `labels` allow it."""
        posterior = self.posterior(inputs)
        draws = _draws.get()
        if draws is not None and draws.seed is None:
            return self._rows(posterior.mean()[None])
        if draws is not None:
            drawn = (draws.num_samples, draws.seed_of(posterior))
            return self._rows(self.bottleneck.sample(posterior, *drawn))
        if stochastic is None:
            stochastic = self.stochastic
        if stochastic is None:
            stochastic = bool(training)
        latents = posterior.mean()[None]
        if stochastic:
            latents = self.bottleneck.sample(posterior, 1, self._next_seed())
        if self._has_rate(labels):
            self._add_rate(
                posterior, latents if stochastic else None, labels, training
            )
        return self._rows(latents)

    def _has_rate(self, labels) -> bool:
        return True

    def _rows(self, latents):
        rows = tf.reshape(latents, [-1, self.bottleneck.latent_dim])
        return tf.cast(rows, self.compute_dtype)

    def _add_rate(self, posterior, latents, labels, training):
        if latents is None:
            rates = self.bottleneck.closed_form_rate(posterior, labels)
        else:
            rates = self.bottleneck.rate(posterior, latents, labels)
        step = tf.constant(_END)
        if training:
            step = tf.identity(self.step.value)
            self.step.assign_add(1)
        self.rate_metric.hold(rates)
        self.add_loss(self.bottleneck.weight(step) * tf.reduce_mean(rates))

    def get_config(self):
        own = self.bottleneck.get_config()
        for name in ("name", "trainable", "dtype"):
            del own[name]
        dim, rate = own.pop("latent_dim"), own.pop("rate_estimator")
        return {
            **super().get_config(),
            **own,
            "dim": dim,
            "rate": rate,
            "stochastic": self.stochastic,
            "seed": self.seed,
        }


def _metric_name(name: str) -> str:
    """The name of the metric: by the layer's name, if the user gave one."""
    is_automatic = re.fullmatch(r"(vib|ceb)_layer(_\d+)?", name)
    return "rate" if is_automatic else f"{name}_rate"


@keras.saving.register_keras_serializable(package="ib_keras")
class VIBLayer(BottleneckLayer):
    """The variational information bottleneck as a layer.

    Returns z ~ p(z|x) in training and the mean of p(z|x) otherwise, and adds
    beta * mean rate to the model's loss, the rate being KL(p(z|x) || N(0, I))
    in nats. `fit` and `evaluate` report its mean as "rate"; of a layer that was
    given a name as "NAME_rate", so name them where there are several. A layer
    that a step calls twice reports the last call, and adds both.

    A model with one layer of these has two modes: `export.save` writes both,
    and an audit of its `.keras` file has both.

    Args:
        dim: K, number of latent dimensions.
        beta: Weight of the rate after annealing.
        rate: "closed_form", the divergence itself; or "sampled", its estimate
            by the draw that is returned, as the paper has it. Where no draw
            is made it is the closed form either way.
        stochastic: Whether to draw: None does in training alone, True always,
            False never. An attribute, too: set it on a trained layer to see
            its noise. A function that was compiled before is not changed.
            Exports and audits have both modes, whatever is set here.
        seed: Of the draws; None takes one of `keras.utils.set_random_seed`.
        anneal_steps: Training steps from `initial_beta` to `beta`.
        initial_beta: See `VIB`.
        anneal_shape: See `VIB`.
        scale_shift: See `layers.DiagonalGaussian`.
        **kwargs: Of `keras.layers.Layer`. The distributions compute in
            float32; `dtype` is that of the output.

    Call arguments:
        inputs: Float tensor `[batch, features]`.
        training: Whether this is a step of training.
        stochastic: Overrides the attribute in this call.

    Returns:
        float `[batch, dim]`.

    Raises:
        UserError: As `VIB` does, and if the inputs are not `[batch, n]`.

    Example:
        >>> model = keras.Sequential([VIBLayer(8), keras.layers.Dense(3)])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss)
        >>> logs = model.fit(tf.ones([4, 5]), tf.zeros([4]), verbose=0)
        >>> sorted(logs.history)
        ['loss', 'rate']

    References:
        Alemi et al., "Deep variational information bottleneck", ICLR 2017.
    """

    def __init__(
        self,
        dim,
        beta=0.01,
        rate="closed_form",
        stochastic=None,
        seed=None,
        anneal_steps=0,
        initial_beta=1e-8,
        anneal_shape="linear",
        scale_shift=-5.0,
        **kwargs,
    ):
        bottleneck = vib.VIB(
            dim,
            beta=beta,
            anneal_steps=anneal_steps,
            initial_beta=initial_beta,
            anneal_shape=anneal_shape,
            scale_shift=scale_shift,
            rate_estimator=rate,
        )
        super().__init__(bottleneck, stochastic, seed, **kwargs)

    def call(self, inputs, training=False, stochastic=None):
        return self._respond(inputs, None, training, stochastic)


@keras.saving.register_keras_serializable(package="ib_keras")
class CEBLayer(BottleneckLayer):
    """The conditional entropy bottleneck as a layer, which sees the labels.

    Returns z ~ p(z|x) in training and the mean of p(z|x) otherwise, and adds
    exp(-rho) * mean rate to the model's loss, the rate being
    KL(p(z|x) || q(z|y)) in nats. The marginal q(z|y) is of the label, so the
    labels are a second input; they enter the rate alone, never z. Train a
    model of images and labels, and save a model of images with the same layers:

        images = keras.Input((28, 28, 1))
        labels = keras.Input((), dtype="int32")
        bottleneck, head = CEBLayer(64, num_classes=10), keras.layers.Dense(10)
        features = cnn(images)
        trained = keras.Model(
            [images, labels], head(bottleneck(features, labels))
        )
        classifier = keras.Model(images, head(bottleneck(features)))
        trained.compile(...)
        trained.fit([x, y], y)
        classifier.save("ceb.keras")

    Args:
        dim: K, number of latent dimensions.
        num_classes: Number of classes.
        rho: Larger means less compression.
        rate: See `VIBLayer`.
        stochastic: See `VIBLayer`.
        seed: See `VIBLayer`.
        anneal_steps: Training steps from `initial_rho` to `rho`.
        initial_rho: See `CEB`.
        **kwargs: See `VIBLayer`.

    Call arguments:
        inputs: Float tensor `[batch, features]`.
        labels: int `[batch]` or `[batch, 1]`; without them there is no rate.
        training: Whether this is a step of training.
        stochastic: Overrides the attribute in this call.

    Returns:
        float `[batch, dim]`.

    Raises:
        UserError: As `CEB` does; if the inputs are not `[batch, n]`, the
            labels are not whole numbers, or in training there are none.

    References:
        Fischer and Alemi, Entropy 22(10), 2020.
    """

    def __init__(
        self,
        dim,
        num_classes,
        rho=3.0,
        rate="closed_form",
        stochastic=None,
        seed=None,
        anneal_steps=0,
        initial_rho=100.0,
        **kwargs,
    ):
        bottleneck = ceb.CEB(
            dim,
            num_classes,
            rho=rho,
            anneal_steps=anneal_steps,
            initial_rho=initial_rho,
            rate_estimator=rate,
        )
        super().__init__(bottleneck, stochastic, seed, **kwargs)

    def call(self, inputs, labels=None, training=False, stochastic=None):
        if training and labels is None:
            raise UserError(
                "CEB cannot train without labels",
                received=f'a call of "{self.name}" with features alone',
                expected="features and labels: layer(features, labels)",
                fix="Train a model of images and labels, as the docstring of "
                "CEBLayer shows, or use VIBLayer, which needs none.",
            )
        if labels is not None:
            labels = _classes(labels)
        return self._respond(inputs, labels, training, stochastic)

    def _has_rate(self, labels):
        return labels is not None


def _classes(labels):
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer:
        raise UserError(
            "Labels are not whole numbers",
            received=f"dtype {labels.dtype.name}",
            expected="integer classes of shape [batch]",
            fix='Declare them so: keras.Input((), dtype="int32").',
        )
    return tf.cast(tf.reshape(labels, [-1]), tf.int32)
