"""IBClassifier: encoder, bottleneck and decoder as one Keras model."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras import optimizers  # noqa: F401  Known to `load_model` then.
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.arguments import MODES
from ib_keras.arguments import NORMALISATIONS
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name
from ib_keras.objectives.base import Terms
from ib_keras.objectives.base import compute_and_apply
from ib_keras.objectives.standard import Standard

SAMPLINGS = ("latents", "logits")

# Name in a config -> Keras' dtype policy of the encoder.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

# Added to the variance of sampled logits, as a share of its trace.
_RIDGE = 1e-6

# Purposes that seeds are folded with, so that no two draws share their noise.
_TRAIN, _EVALUATE = 1, 2


def log_mean_probability(logits: tf.Tensor) -> tf.Tensor:
    """The logits of the scored stochastic classifier.

    log((1/S) sum_s softmax(logits[s])), computed by log-sum-exp.

    Args:
        logits: float32 `[samples, batch, classes]`.

    Returns:
        float32 `[batch, classes]`: normalised log-probabilities.
    """
    count = tf.cast(tf.shape(logits)[0], logits.dtype)
    total = tf.reduce_logsumexp(tf.nn.log_softmax(logits), axis=0)
    return total - tf.math.log(count)


@keras.saving.register_keras_serializable(package="ib_keras")
class IBClassifier(keras.Model):
    """An information-bottleneck classifier.

    images -> (x - mean) / std -> encoder -> p(z|x) -> decoder -> logits.

    In mean mode the decoder sees the mean of p(z|x); in stochastic mode the
    class probabilities are averaged over `num_samples` draws of z. It trains
    with `compile` and `fit` as any Keras model does (no loss is passed: the
    model has its own), and by `ib_keras.training.loop`.

    Args:
        encoder: Keras layer from images to features `[batch, features]`.
        bottleneck: A `bottlenecks.base.Bottleneck`.
        num_classes: Number of classes.
        num_samples: S, draws of z in training and in stochastic mode.
        input_mean: Subtracted from images in [0, 1], one float per channel.
        input_std: Divides what remains. (0.5,) and (0.5,) rescale to
            [-1, 1].
        decoder_initializer: Of the one dense layer to logits.
        seed: Of the noise drawn inside `fit` and `evaluate`.
        objective: What training minimises, an `objectives.base.Objective`,
            such as `objectives.pgd_at.PGDTraining(epsilon=0.1)`; None for the
            paper's. It changes training alone: what `evaluate` measures is
            always of the images as they are.
        input_deviation: The name of `input_std` in version 0.1; deprecated.

    Call arguments:
        images: float32 `[batch, height, width, channels]` in [0, 1].
        training: Whether batch statistics are used and updated.
        mode: "mean" or "stochastic".
        noise_seed: int32 `[2]`, needed in stochastic mode.
        num_samples: Overrides S.
        sampling: How stochastic mode draws: "latents", or "logits", which is
            equal in distribution and cheaper; audits use it.

    Returns:
        Logits, float32 `[batch, classes]`.

    Raises:
        UserError: If `num_samples` is below 1, the initializer is unknown, a
            loss was passed to `compile`, or labels are not one class an image;
            in a call if the mode is unknown or a seed is missing.

    Example:
        >>> from ib_keras.bottlenecks.vib import VIB
        >>> from ib_keras.encoders import mlp
        >>> model = IBClassifier(mlp.build((8, 8, 1)), VIB(16, beta=0.01), 10)
        >>> model.compile("adam")
        >>> images, labels = tf.zeros([4, 8, 8, 1]), tf.zeros([4], tf.int32)
        >>> _ = model.fit(images, labels, verbose=0)
        >>> model(images).shape
        TensorShape([4, 10])

    References:
        Korshunova et al. 2021, section 3.1.
    """

    def __init__(
        self,
        encoder,
        bottleneck,
        num_classes,
        num_samples=12,
        input_mean=(0.5,),
        input_std=(0.5,),
        decoder_initializer="glorot_uniform",
        seed=0,
        objective=None,
        input_deviation=None,
        **kwargs,
    ):
        if input_deviation is not None:
            warnings.warn(
                "input_deviation is called input_std now",
                DeprecationWarning,
                stacklevel=2,
            )
            input_std = input_deviation
        # Without casts of the input: under a mixed policy they would round
        # images to bfloat16, perturbations and all, before the rescaling.
        super().__init__(autocast=False, **kwargs)
        if int(num_samples) < 1:
            raise UserError(
                "num_samples cannot be the number of draws",
                received=num_samples,
                expected="1 or more",
                fix="The paper uses 12.",
            )
        self.encoder = _check_encoder(encoder)
        self.bottleneck = bottleneck
        self.num_classes = int(num_classes)
        self.num_samples = int(num_samples)
        self.input_mean = tuple(float(v) for v in input_mean)
        self.input_std = tuple(float(v) for v in input_std)
        self.decoder_initializer = _initializer(decoder_initializer)
        self.seed = int(seed)
        self.objective = objective or Standard()
        self.decoder = keras.layers.Dense(
            self.num_classes,
            kernel_initializer=self.decoder_initializer,
            dtype="float32",
            name="decoder",
        )
        self._trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", "cross_entropy", "rate", "accuracy")
        }
        if self.is_stochastic:
            name = "accuracy_stochastic"
            self._trackers[name] = keras.metrics.Mean(name=name)
        for name in self.objective.metrics:
            self._trackers[name] = keras.metrics.Mean(name=name)

    @property
    def is_stochastic(self) -> bool:
        """Whether there is noise in p(z|x), and so a stochastic mode."""
        return self.bottleneck.is_stochastic

    @property
    def precision(self) -> str:
        """The type that the encoder computes in: "float32" or "bfloat16"."""
        return precision_of(self.encoder)

    def build(self, input_shape):
        """Creates all weights for images of `input_shape`.

        Raises:
            UserError: If the encoder does not make one row of features
                `[batch, n]` of each image, and of nothing else.
        """
        input_shape = tuple(input_shape)
        features = _encode_shape(self.encoder, input_shape)
        layers.check_features(features, "the end of the encoder")
        layers.ensure_built(self.encoder, input_shape)
        layers.ensure_built(self.bottleneck, tuple(features))
        layers.ensure_built(self.decoder, (None, self.bottleneck.latent_dim))
        self._image_shape = input_shape[1:]
        self.built = True

    def posterior(self, images, training=False):
        """Computes p(z|x).

        Args:
            images: float32 `[batch, height, width, channels]` in [0, 1].
            training: Whether batch statistics are used and updated.

        Returns:
            A `tfp.distributions` object, batch shape `[batch]`, event shape
            `[latent_dim]`.

        Raises:
            UserError: If the images are of whole numbers, whose units are
                not known, or there are several inputs.
        """
        if isinstance(images, Mapping | list | tuple):
            raise _several_inputs(f"{len(images)} of them")
        images = tf.convert_to_tensor(images)
        if not images.dtype.is_floating:
            raise UserError(
                "Images are of whole numbers",
                received=f"dtype {images.dtype.name}",
                expected="floating point in [0, 1]",
                fix='Scale them: images.astype("float32") / 255.',
            )
        # `fit` and `evaluate` come here without `__call__`, which would build.
        layers.ensure_built(self, tuple(images.shape))
        normalised = (tf.cast(images, tf.float32) - self.input_mean) / (
            self.input_std
        )
        features = self.encoder(normalised, training=training)
        return self.bottleneck(tf.cast(features, tf.float32))

    def call(
        self,
        images,
        training=False,
        mode="mean",
        noise_seed=None,
        num_samples=None,
        sampling="latents",
    ):
        posterior = self.posterior(images, training=training)
        if mode == "mean":
            return self.decoder(posterior.mean())
        if mode != "stochastic":
            raise unknown_name("mode", mode, MODES, "Set mode to one of them.")
        if noise_seed is None:
            raise UserError(
                "Stochastic mode has no seed",
                received="noise_seed=None",
                expected="an int32 tensor [2]",
                fix="Pass noise_seed=ib_keras.seeds.from_int(0).",
            )
        count = self.num_samples if num_samples is None else num_samples
        if sampling == "latents":
            latents = self.bottleneck.sample(posterior, count, noise_seed)
            return log_mean_probability(self.decoder(latents))
        if sampling != "logits":
            raise unknown_name(
                "sampling", sampling, SAMPLINGS, "Set sampling to one of them."
            )
        return log_mean_probability(
            self._sample_logits(posterior, count, noise_seed)
        )

    def _sample_logits(self, posterior, num_samples, noise_seed):
        """Draws logits with the distribution that latents would give.

        Given x the latents are independent Gaussians and the decoder is
        linear, so a sample's logits are Gaussian with mean W' mu + b and
        covariance W' diag(sigma^2) W. A softmax sees differences of logits
        alone: classes - 1 numbers a sample are drawn, relative to the last
        class, instead of latent_dim. Exact in distribution but for 1e-6 of
        the summed variance, which keeps the factorisation stable in float32.

        Returns:
            float32 `[samples, batch, classes]`; that of the last class is 0.
        """
        kernel = tf.convert_to_tensor(self.decoder.kernel)
        kernel = kernel[:, :-1] - kernel[:, -1:]
        bias = tf.convert_to_tensor(self.decoder.bias)
        mean = posterior.mean() @ kernel + (bias[:-1] - bias[-1])
        size = self.num_classes - 1
        products = tf.reshape(
            kernel[:, :, None] * kernel[:, None, :], [-1, size * size]
        )
        covariance = tf.reshape(
            posterior.variance() @ products, [-1, size, size]
        )
        ridge = _RIDGE * tf.linalg.trace(covariance) + 1e-20
        factor = tf.linalg.cholesky(
            covariance + ridge[:, None, None] * tf.eye(size)
        )
        shape = tf.stack([num_samples, tf.shape(mean)[0], size])
        noise = seeds.noise(noise_seed, shape)
        logits = mean + tf.einsum("bij,sbj->sbi", factor, noise)
        return tf.pad(logits, [[0, 0], [0, 0], [0, 1]])

    def terms(self, images, labels, noise_seed, step, training=True) -> Terms:
        """Computes the paper's objective per example (equations 2 and 3).

        Args:
            images: float32 `[batch, height, width, channels]` in [0, 1].
            labels: int32 `[batch]`.
            noise_seed: int32 `[2]`, of the draws of z.
            step: Scalar integer tensor, which the weight is scheduled by.
            training: Whether batch statistics are used and updated.

        Returns:
            `Terms`, unreduced: the caller divides by the global batch size.
        """
        posterior = self.posterior(images, training=training)
        latents = self.bottleneck.sample(
            posterior, self.num_samples, noise_seed
        )
        log_probs = tf.nn.log_softmax(self.decoder(latents))
        one_hot = tf.one_hot(labels, self.num_classes)
        cross_entropy = -tf.reduce_mean(
            tf.reduce_sum(one_hot * log_probs, axis=-1), axis=0
        )
        rate = self.bottleneck.rate(posterior, latents, labels)
        weight = self.bottleneck.weight(step)
        return Terms(
            loss=cross_entropy + weight * rate,
            cross_entropy=cross_entropy,
            rate=rate,
            weight=weight,
            logits=log_mean_probability(log_probs),
            mean_logits=self.decoder(posterior.mean()),
        )

    def evaluate_terms(self, images, labels, noise_seed, step):
        """Computes the objective and both modes from one encoder pass.

        Args:
            images: float32 `[batch, height, width, channels]` in [0, 1].
            labels: int32 `[batch]`.
            noise_seed: int32 `[2]`, of the draws of z.
            step: Scalar integer tensor, which the weight is scheduled by.

        Returns:
            `Terms`, whose logits are those of stochastic mode, and the logits
            of mean mode, float32 `[batch, classes]`.
        """
        terms = self.terms(images, labels, noise_seed, step, training=False)
        return terms, terms.mean_logits

    @property
    def metrics(self):
        """The model's own metrics, then those given to `compile`."""
        others = [m for m in super().metrics if m.name not in self._trackers]
        return list(self._trackers.values()) + others

    @functools.wraps(keras.Model.fit)
    def fit(self, *arguments, **keywords):
        # Callbacks that restore weights need a model that has them.
        shape = getattr(self.encoder, "input_shape", None)
        if not self.built and shape and None not in shape[1:]:
            self.build(shape)
        return super().fit(*arguments, **keywords)

    def train_step(self, data):
        """One optimiser step of `fit`."""
        self._refuse_foreign_loss()
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(
            data
        )
        labels = _integer_labels(labels, images, self.num_classes)
        step = tf.cast(self.optimizer.iterations, tf.int32)
        noise_seed = seeds.fold(seeds.from_int(self.seed), _TRAIN, step)

        def reduce(values):
            loss = _weighted_mean(values, sample_weight)
            loss += tf.add_n(self.losses) if self.losses else 0.0
            # The optimizer sums gradients over the replicas.
            return loss / tf.distribute.get_strategy().num_replicas_in_sync

        terms, _ = compute_and_apply(
            self,
            self.optimizer,
            self.objective,
            (images, labels),
            noise_seed,
            step,
            reduce,
        )
        return self._measure(images, labels, terms, sample_weight)

    def _refuse_foreign_loss(self):
        # Overriding `compile` would make `load_model` lose the optimizer's
        # state.
        if getattr(self, "_compile_loss", None) is not None:
            raise UserError(
                "The classifier brings its own loss",
                received="a loss in compile()",
                expected="none",
                fix="Leave it out; the bottleneck has the objective.",
            )

    def test_step(self, data):
        """One batch of `evaluate`: both modes from one encoder pass."""
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(
            data
        )
        labels = _integer_labels(labels, images, self.num_classes)
        step = tf.constant(2**31 - 1, tf.int32)
        noise_seed = seeds.fold(seeds.from_int(self.seed), _EVALUATE)
        terms, _ = self.evaluate_terms(images, labels, noise_seed, step)
        logs = self._measure(images, labels, terms, sample_weight)
        # What the objective alone measures is of training.
        for name in self.objective.metrics:
            del logs[name]
        return logs

    def _measure(self, images, labels, terms, sample_weight):
        trackers, mean_logits = self._trackers, terms.mean_logits
        for name, values in terms.metrics.items():
            trackers[name].update_state(values, sample_weight)
        for name in ("loss", "cross_entropy", "rate"):
            trackers[name].update_state(getattr(terms, name), sample_weight)
        trackers["accuracy"].update_state(
            _is_correct(mean_logits, labels), sample_weight
        )
        if self.is_stochastic:
            trackers["accuracy_stochastic"].update_state(
                _is_correct(terms.logits, labels), sample_weight
            )
        return self.compute_metrics(images, labels, mean_logits, sample_weight)

    def get_build_config(self):
        """What `load_model` needs to create the weights."""
        if not self.built:
            return None
        return {"input_shape": (None, *self._image_shape)}

    def build_from_config(self, config):
        """Creates the weights on `load_model`."""
        self.build(config["input_shape"])

    def get_config(self):
        objective = {}
        if not isinstance(self.objective, Standard):
            serialized = keras.saving.serialize_keras_object(self.objective)
            objective = {"objective": serialized}
        return {
            **super().get_config(),
            **objective,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "bottleneck": keras.saving.serialize_keras_object(self.bottleneck),
            "num_classes": self.num_classes,
            "num_samples": self.num_samples,
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "decoder_initializer": keras.initializers.serialize(
                self.decoder_initializer
            ),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if "input_deviation" in config:  # Saved by version 0.1.
            config["input_std"] = config.pop("input_deviation")
        for package in ("encoders", "bottlenecks", "objectives"):
            for name in plugins.names(package):
                plugins.load(package, name)  # Its classes are registered then.
        for part in {"encoder", "bottleneck", "objective"} & set(config):
            config[part] = keras.saving.deserialize_keras_object(config[part])
        return cls(**config)


def _check_encoder(encoder):
    if not isinstance(encoder, keras.layers.Layer):
        raise UserError(
            "The encoder is not a Keras layer",
            received=type(encoder).__name__,
            expected="a Keras layer or model from images to features",
            fix="Write it as one, for example with keras.Sequential.",
        )
    inputs = getattr(encoder, "inputs", None) or ()
    if len(inputs) > 1:
        raise _several_inputs(f"an encoder with {len(inputs)} inputs")
    return encoder


def _several_inputs(received: str) -> UserError:
    return UserError(
        "The classifier takes one input, the images",
        received=received,
        expected="one tensor [batch, height, width, channels]",
        fix="Put what else the network sees into the channels of the images, "
        "or build a functional model with ib_keras.VIBLayer.",
    )


def _encode_shape(encoder, input_shape):
    """The shape of the encoder's features, asked or traced."""
    try:
        return encoder.compute_output_shape(input_shape)
    except NotImplementedError:
        pass  # A subclass may not have it.
    try:
        features = encoder(keras.KerasTensor(input_shape, "float32"))
        return keras.tree.map_structure(lambda x: x.shape, features)
    except Exception as error:  # Whatever its `call` raises.
        raise UserError(
            "The shape of the encoder's features cannot be told",
            received=f"{type(encoder).__name__} for images {input_shape} "
            f"({type(error).__name__}: {reason(error, 400)})",
            expected="a layer that can be called on such images",
            fix="Correct its call, or define compute_output_shape.",
        ) from error


def _integer_labels(labels, images, num_classes: int) -> tf.Tensor:
    labels = tf.convert_to_tensor(labels)
    shape = labels.shape
    # Keras traces for every rank at once when it has seen two.
    is_column = shape.rank == 2 and shape[-1] == 1
    if not (shape.rank in (None, 1) or is_column):
        raise UserError(
            "Labels are not one integer class per image",
            received=f"shape {tuple(shape)}",
            expected="integer classes of shape [batch]",
            fix="For one-hot labels use labels.argmax(axis=-1).",
        )
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    _require(
        tf.size(labels) == tf.shape(images)[0],
        "Labels are not one integer class per image. Fix: For one-hot labels "
        "use labels.argmax(axis=-1).",
        labels,
    )
    # A one-hot row of a class that does not exist is zero, and so is its loss.
    _require(
        tf.reduce_all((labels >= 0) & (labels < num_classes)),
        f"Labels are out of range. Expected: classes from 0 to "
        f"{num_classes - 1}. Fix: Check num_classes and the labels.",
        labels,
    )
    return labels


def _require(condition, problem: str, labels) -> None:
    tf.debugging.Assert(condition, [f"{problem} Received:", labels])


def _is_correct(logits, labels) -> tf.Tensor:
    predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(tf.equal(predictions, labels), tf.float32)


def _weighted_mean(values, sample_weight) -> tf.Tensor:
    if sample_weight is not None:
        values = values * tf.cast(sample_weight, values.dtype)
    return tf.reduce_mean(values)


def _initializer(name):
    try:
        return keras.initializers.get(name)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "The decoder's initializer is unknown",
            received=repr(name),
            expected="a name that keras.initializers.get takes",
            fix='Set decoder.initializer to one, such as "glorot_uniform".',
        ) from error


def build(
    config: Mapping[str, Any],
    *,
    image_shape,
    num_classes: int,
    steps_per_epoch: int,
    channel_statistics=None,
    feature_range=None,
) -> IBClassifier:
    """Builds the classifier that a training config describes, with weights.

    Args:
        config: Sections `encoder`, `bottleneck`, `decoder` (`initializer`),
            `input` (`normalisation`: "minus_one_one", "train_statistics",
            "features" or "none") and the fields `num_samples`, `seed` and, if
            wanted, `objective` (the paper's without it) and `precision`
            ("float32" or "bfloat16": what the encoder
            computes in; weights, distributions, logits and losses are float32
            either way; without it Keras' own policy holds).
        image_shape: (height, width, channels).
        num_classes: Number of classes.
        steps_per_epoch: Turns annealing lengths in epochs into steps.
        channel_statistics: Function without arguments that returns the
            per-channel mean and std of the training set; called only if
            the config asks for them.
        feature_range: The values of the pixels 0 and 1 in the data set's own
            units, if the model computes in these ("features").

    Returns:
        A built `IBClassifier`.

    Raises:
        UserError: If a part, a field or the normalisation is unknown, or the
            data set has no units of its own and the config asks for them.
    """
    normalisation = config["input"]["normalisation"]
    if normalisation == "minus_one_one":
        statistics = ((0.5,), (0.5,))
    elif normalisation == "train_statistics":
        statistics = channel_statistics()
    elif normalisation == "features":
        statistics = _feature_statistics(feature_range)
    elif normalisation == "none":
        statistics = ((0.0,), (1.0,))
    else:
        raise unknown_name(
            "normalisation",
            normalisation,
            NORMALISATIONS,
            "Set input.normalisation.",
        )
    # The initial weights are a function of the config's seed alone.
    keras.utils.set_random_seed(int(config["seed"]) % 2**32)
    with _precision(config.get("precision")):
        encoder = plugins.build(
            "encoders", config["encoder"], image_shape=tuple(image_shape)
        )
    model = IBClassifier(
        encoder=encoder,
        bottleneck=plugins.build(
            "bottlenecks",
            config["bottleneck"],
            num_classes=num_classes,
            steps_per_epoch=steps_per_epoch,
        ),
        num_classes=num_classes,
        num_samples=config["num_samples"],
        input_mean=statistics[0],
        input_std=statistics[1],
        decoder_initializer=config["decoder"]["initializer"],
        seed=config["seed"],
        objective=plugins.build(
            "objectives",
            config.get("objective") or {"name": "standard"},
            steps_per_epoch=steps_per_epoch,
        ),
        name="ib_classifier",
    )
    model.build((None, *image_shape))
    return model


def _feature_statistics(feature_range):
    """The mean and standard deviation that map [0, 1] to a feature range."""
    if feature_range is None:
        raise UserError(
            "The data set has no feature range",
            received='input.normalisation="features"',
            expected="a data set with a feature_range, such as toy_overlap",
            fix='Set input.normalisation="minus_one_one".',
        )
    low, high = feature_range
    return (-low / (high - low),), (1 / (high - low),)


def _all_layers(model) -> list[keras.layers.Layer]:
    """A layer and all inside of it."""
    return list(model._flatten_layers())


def precision_of(model: keras.layers.Layer) -> str:
    """The shortest type that a layer or a layer inside of it computes in."""
    types = {layer.compute_dtype for layer in _all_layers(model)}
    return min(types - {None}, key=lambda name: tf.as_dtype(name).size)


@contextlib.contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Sets the layers of a model to the precision of its weights, for a while.

    Functions traced inside compute in float32, with the same variables.
    """
    before = [(layer, layer.dtype_policy) for layer in _all_layers(model)]
    for layer, policy in before:
        if tf.as_dtype(policy.compute_dtype).size < 4:
            layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


@contextlib.contextmanager
def _precision(name: str | None) -> Iterator[None]:
    """Makes the layers built inside compute in this precision.

    None leaves it to Keras' own policy.
    """
    if name is None:
        yield
        return
    if name not in PRECISIONS:
        raise unknown_name(
            "precision", name, PRECISIONS, "Set precision to one of them."
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
