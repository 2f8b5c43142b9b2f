"""The training loop: many steps per call, on any strategy, resumable.

`train` is the whole job of `launch.train`: data, model, optimiser, steps,
evaluation, checkpoints, logs and the SavedModel at the end.
"""

import contextlib
import inspect
import tempfile
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ib_keras import classifier
from ib_keras import export
from ib_keras import files
from ib_keras import optimizers
from ib_keras import schedules
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras import workdirs
from ib_keras.data import batches
from ib_keras.data import source as sources
from ib_keras.errors import DivergedError
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.objectives.base import compute_and_apply
from ib_keras.progress import Progress
from ib_keras.training import settings
from ib_keras.training.background import Background
from ib_keras.training.checkpoints import Checkpoints
from ib_keras.training.metrics_log import MetricsLog
from ib_keras.training.monitor import Monitor
from ib_keras.training.monitor import best_step
from ib_keras.training.settings import BEST_CHECKPOINT
from ib_keras.training.settings import BEST_SAVED_MODEL
from ib_keras.training.settings import CHECKPOINTS
from ib_keras.training.settings import MAY_DIFFER
from ib_keras.training.settings import RESULT_FILE
from ib_keras.training.settings import SAVED_MODEL
from ib_keras.training.startup import Startup
from ib_keras.watchdog import Watchdog

_SCHEDULE = ("learning_rate", "decay_factor", "decay_every_epochs")
_UNEVEN = "decay_at_epochs"  # In place of the last, a list.

# Constants that the run's seed is folded with, one per purpose.
_DATA, _NOISE, _EVALUATE, _MONITOR = 1, 2, 3, 4

# What a training step measures, in the order of the vector it returns; behind
# them are the metrics of its objective.
_TRAIN_VALUES = ("loss", "cross_entropy", "rate", "accuracy_stochastic")
_EVAL_VALUES = (
    "loss",
    "cross_entropy",
    "rate",
    "accuracy",
    "accuracy_stochastic",
)


def build_optimizer(
    config: Mapping[str, Any], averaging_decay: float, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Builds the optimiser of a config's `optim` section.

    Args:
        config: `name` ("adam" or "sgd"), `learning_rate`, `decay_factor`,
            `decay_every_epochs` (or a list, `decay_at_epochs`) and the
            optimiser's own arguments.
        averaging_decay: Decay of the Polyak average; 0 for none.
        steps_per_epoch: Turns the decay's epochs into steps.

    Returns:
        A Keras optimizer.

    Raises:
        UserError: If the name or an argument is unknown, or cannot be used.
    """
    settings.check_optimizer(config)
    makers = {"adam": optimizers.FusedAdam, "sgd": keras.optimizers.SGD}
    own = dict(config)
    name = own.pop("name")
    documented = {"adam": keras.optimizers.Adam}.get(name, makers[name])
    valid = {*inspect.signature(documented).parameters, *_SCHEDULE, _UNEVEN}
    valid -= {"kwargs", "use_ema", "ema_momentum"}
    for key in own:
        if key not in valid:
            raise unknown_name(
                "field of optim", key, valid, "Correct or remove the field."
            )
    averaging = {}
    if averaging_decay:
        averaging = {"use_ema": True, "ema_momentum": averaging_decay}
    try:
        rate, factor, every = _SCHEDULE
        learning_rate = schedules.learning_rate(
            own.pop(rate),
            own.pop(factor),
            own.pop(_UNEVEN if own.get(_UNEVEN) else every),
            steps_per_epoch,
        )
        return makers[name](learning_rate=learning_rate, **own, **averaging)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(" Received")[0]
        raise UserError(
            "The optimizer cannot be built",
            received=f"{config}, averaging.decay={averaging_decay} ({reason})",
            expected=f"name, {', '.join(_SCHEDULE)} and arguments of "
            f"keras.optimizers.{documented.__name__}",
            fix="Correct the sections optim and averaging.",
        ) from error


@contextlib.contextmanager
def averaged_weights(model: keras.Model, optimizer):
    """Gives the model its Polyak averages for a while, if there are any."""
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    if not optimizer.use_ema or not averages:
        yield
        return
    raw = [variable.numpy() for variable in model.trainable_variables]
    for variable, average in zip(
        model.trainable_variables, averages, strict=True
    ):
        variable.assign(average)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)


class Steps:
    """The compiled functions of training and evaluation.

    Args:
        model: A built classifier, made in the strategy's scope.
        optimizer: A built optimizer, made in the strategy's scope.
        strategy: Where to run.
        seed: int32 `[2]`, of the run.
        batch_size: Global batch size, which sums are divided by.
    """

    def __init__(self, model, optimizer, strategy, seed, batch_size):
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._noise_seed = seeds.fold(seed, _NOISE)
        self._eval_seed = seeds.fold(seed, _EVALUATE)
        self._batch_size = batch_size
        self.train_values = (*_TRAIN_VALUES, *model.objective.metrics)
        jit = strategies.jit_compile(strategy)
        self._train_step = tf.function(self._replica_step, jit_compile=jit)
        self._eval_step = tf.function(self._replica_eval, jit_compile=jit)
        self.train = tf.function(self._train)
        self.evaluate_batch = tf.function(self._evaluate_batch)

    def _replica_step(self, images, labels, is_last):
        model, optimizer = self._model, self._optimizer
        step = tf.cast(optimizer.iterations, tf.int32)
        noise_seed = seeds.fold(self._noise_seed, step)
        terms, gradients = compute_and_apply(
            model,
            optimizer,
            model.objective,
            (sources.to_float(images), labels),
            noise_seed,
            step,
            lambda loss: tf.reduce_sum(loss) / self._batch_size,
        )
        # Two passes over all weights: only for steps that are logged.
        norm = tf.cond(
            is_last,
            lambda: tf.linalg.global_norm(gradients),
            lambda: tf.constant(0.0),
        )
        correct = _is_correct(terms.logits, labels)
        values = [
            terms.loss,
            terms.cross_entropy,
            terms.rate,
            correct,
            *(terms.metrics[name] for name in model.objective.metrics),
        ]
        sums = tf.stack([tf.reduce_sum(value) for value in values])
        return sums / self._batch_size, norm

    def _train(self, iterator, num_steps):
        """Makes `num_steps` steps; see `train_steps`."""
        strategy = self._strategy
        total = tf.zeros([len(self.train_values)])
        norm = tf.constant(0.0)
        first_bad = tf.constant(-1)
        for i in tf.range(num_steps):
            images, labels = next(iterator)
            sums, norms = strategy.run(
                self._train_step, args=(images, labels, i == num_steps - 1)
            )
            sums = strategy.reduce("SUM", sums, axis=None)
            norm = strategy.reduce("MEAN", norms, axis=None)
            total += sums
            bad = (first_bad < 0) & ~tf.math.is_finite(sums[0])
            first_bad = tf.where(bad, i, first_bad)
        return total / tf.cast(num_steps, tf.float32), norm, first_bad

    def trace(self, iterator) -> None:
        """Traces the training steps, as the first call would."""
        self.train.get_concrete_function(iterator, tf.constant(1))

    def train_steps(self, iterator, num_steps: int):
        """Makes `num_steps` training steps in one call.

        Args:
            iterator: Over distributed (images, labels).
            num_steps: How many.

        Returns:
            A dict of the values of `train_values`, averaged over the steps,
            and `gradient_norm` of the last one.

        Raises:
            DivergedError: If the loss was not finite, naming the step.
        """
        before = int(self._optimizer.iterations.numpy())
        means, norm, first_bad = self.train(iterator, tf.constant(num_steps))
        if int(first_bad) >= 0:
            raise DivergedError(
                "The loss is no longer finite",
                received=f"NaN or infinity at step {before + int(first_bad)}",
                expected="finite losses",
                fix="Lower optim.learning_rate, or anneal the rate for "
                "longer. Checkpoints from before are kept.",
            )
        values = dict(
            zip(self.train_values, means.numpy().tolist(), strict=True)
        )
        return {**values, "gradient_norm": float(norm)}

    def _replica_eval(self, images, labels, mask, index):
        step = tf.cast(self._optimizer.iterations, tf.int32)
        noise_seed = seeds.fold(self._eval_seed, index)
        terms, mean_logits = self._model.evaluate_terms(
            sources.to_float(images), labels, noise_seed, step
        )
        values = [
            terms.loss,
            terms.cross_entropy,
            terms.rate,
            _is_correct(mean_logits, labels),
            _is_correct(terms.logits, labels),
        ]
        mask = tf.cast(mask, tf.float32)
        sums = [tf.reduce_sum(mask * value) for value in values]
        return tf.stack([*sums, tf.reduce_sum(mask)])

    def _evaluate_batch(self, images, labels, mask, index):
        sums = self._strategy.run(
            self._eval_step, args=(images, labels, mask, index)
        )
        return self._strategy.reduce("SUM", sums, axis=None)

    def evaluate(self, images, labels, batch_size: int) -> dict[str, float]:
        """Evaluates every example once, in both modes.

        Args:
            images: uint8 array `[examples, ...]`.
            labels: int32 array `[examples]`.
            batch_size: Global batch size.

        Returns:
            Means over the examples of the values of `_EVAL_VALUES`; without
            `accuracy_stochastic` for a model that has no such mode.
        """
        total = batches.sum_over_eval_batches(
            self._strategy, self.evaluate_batch, images, labels, batch_size
        )
        means = (total[:-1] / total[-1]).tolist()
        values = dict(zip(_EVAL_VALUES, means, strict=True))
        if not self._model.is_stochastic:
            del values["accuracy_stochastic"]
        return values


def _is_correct(logits, labels):
    predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(predictions == labels, tf.float32)


class _Run:
    """One training run: its objects and its schedule of events."""

    def __init__(self, config, workdir, strategy, quiet, startup=None):
        self.config = config
        self.workdir = workdir
        self.strategy = strategy
        self.quiet = quiet
        self.startup = startup or Startup()
        self.batch_size = int(config["train"]["batch_size"])
        strategies.check_global_batch(strategy, self.batch_size)
        with self.startup.part("data"):
            self.source = sources.make(config["data"])
            split = config["train"]["split"]
            # Drawn examples have no epochs: each batch counts as one.
            self.is_fresh = self.source.draw is not None and split == "train"
            self.train_data = None if self.is_fresh else self.load(split)
            self.eval_data = self.load(config["eval"]["split"])
            self.other_data = {
                name: self.load(name) for name in config["eval"]["other_splits"]
            }
        count = self.batch_size
        if not self.is_fresh:
            count = len(self.train_data[1])
        batches.check_batch_size(
            self.batch_size, count, strategy.num_replicas_in_sync
        )
        self.steps_per_epoch = batches.steps_per_epoch(count, self.batch_size)
        self.num_steps = max(
            round(config["num_epochs"] * self.steps_per_epoch), 1
        )
        self.seed = seeds.from_int(config["seed"])
        with self.startup.part("model"), strategy.scope():
            self.model = classifier.build(
                config,
                image_shape=self.source.image_shape,
                num_classes=self.source.num_classes,
                steps_per_epoch=self.steps_per_epoch,
                channel_statistics=lambda: sources.channel_statistics(
                    (self.train_data or self.load(split))[0]
                ),
                feature_range=self.source.feature_range,
            )
            self.optimizer = build_optimizer(
                config["optim"],
                config["averaging"]["decay"],
                self.steps_per_epoch,
            )
            self.optimizer.build(self.model.trainable_variables)
        self.steps = Steps(
            self.model, self.optimizer, strategy, self.seed, self.batch_size
        )
        self.checkpoints = Checkpoints(
            files.join(workdir, CHECKPOINTS), config["checkpoint"]["keep"]
        )
        self.monitor = None
        if "monitor" in config:
            self.monitor = Monitor(
                config["monitor"],
                self.model,
                strategy,
                seeds.fold(self.seed, _MONITOR),
                self.load(config["monitor"]["split"]),
                config["eval"]["batch_size"],
            )
            folder = files.join(workdir, BEST_CHECKPOINT)
            self.best = Checkpoints(folder, keep=1)
        self.log = MetricsLog(workdir, config)
        self.background = Background()
        # Of the steps since the last row of the log: (steps, values) of each
        # call, and the seconds they took.
        self.gathered, self.seconds = [], 0.0

    def load(self, split):
        return sources.read(self.source, split)

    @property
    def variables(self):
        own = list(self.model.variables)
        seen = {id(v) for v in own}
        return own + [v for v in self.optimizer.variables if id(v) not in seen]

    def restore(self, workdir) -> int:
        """Restores the checkpoint in `workdir`, which only the chief writes."""
        self.checkpoints.remove_leftovers()
        checkpoints = Checkpoints(files.join(workdir, CHECKPOINTS))
        header = checkpoints.restore(self.variables, say=self.say)
        start = 0 if header is None else int(header["step"])
        strategies.check_agreement(
            self.strategy, start, "step of the newest checkpoint", workdir
        )
        if header is None:
            return 0
        self.say(f"Resuming at step {header['step']}, from {self.workdir}")
        self.log.restore(header["step"], header.get("rows"))
        self.gathered = header.get("gathered", [])
        self.seconds = header.get("seconds", 0.0)
        return int(header["step"])

    def say(self, line):
        if not self.quiet:
            print(line, flush=True)

    def iterator(self, start):
        augment = None
        if self.config["train"]["augment"]:
            augment = self.source.augment
            if augment is None:
                self.say(
                    f"{self.source.name} has no augmentation: train.augment "
                    "changes nothing."
                )

        def pipeline(context):
            local = context.num_replicas_in_sync // context.num_input_pipelines
            served = {
                "batch_size": self.batch_size,
                "seed": seeds.fold(self.seed, _DATA),
                "start_step": start,
                "num_steps": self.num_steps - start,
                "num_shards": context.num_input_pipelines,
                "shard_index": context.input_pipeline_id,
                "num_local": local,
            }
            if self.is_fresh:
                return batches.fresh_batches(self.source.draw, **served)
            return batches.train_batches(
                *self.train_data, augment=augment, **served
            )

        return iter(self.strategy.distribute_datasets_from_function(pipeline))

    def next_stop(self, step) -> int:
        """The next step at which the host logs, evaluates or saves."""
        config = self.config
        periods = [
            config["steps_per_call"],
            config["train"]["log_every_steps"],
            config["checkpoint"]["every_steps"],
            self.eval_period,
        ]
        stops = [(step // period + 1) * period for period in periods]
        return min(*stops, self.num_steps)

    @property
    def eval_period(self) -> int:
        return max(
            round(self.config["eval"]["every_epochs"] * self.steps_per_epoch), 1
        )

    def evaluate(self, step) -> dict[str, float]:
        batch_size = self.config["eval"]["batch_size"]
        with averaged_weights(self.model, self.optimizer):
            values = self.steps.evaluate(*self.eval_data, batch_size)
            others = self.other_data if step == self.num_steps else {}
            for split, data in others.items():
                measured = self.steps.evaluate(*data, batch_size)
                values |= {f"{split}/{k}": v for k, v in measured.items()}
            if self.monitor:
                values |= self.monitor.measure()
        if not np.isfinite(list(values.values())).all():
            raise DivergedError(
                "The evaluation is not finite",
                received=f"{values} at step {step}",
                expected="finite numbers",
                fix="Lower optim.learning_rate, or anneal the rate for longer.",
            )
        self.log.add(step, self.epoch(step), "eval", values)
        if self.monitor:
            self.heed_monitor(step, values)
        return values

    def heed_monitor(self, step, values):
        """Keeps the best step by PGD, and says where training collapses."""
        if best_step(self.log.rows) == step:
            self.background.run(self.best.prepare(step, self.variables, {}))
        alarm = self.monitor.alarm(step, values, self.log.rows)
        if alarm:
            self.say(alarm)

    def epoch(self, step) -> float:
        return step / self.steps_per_epoch

    def controls(self, step) -> dict[str, float]:
        bottleneck = self.model.bottleneck
        values = {"learning_rate": float(self.optimizer.learning_rate)}
        if bottleneck.is_stochastic:
            now = tf.constant(step, tf.int32)
            values[bottleneck.control] = float(bottleneck.control_value(now))
        return values

    def save(self, step):
        """Copies the values of a checkpoint, written in the background."""
        header = {
            "gathered": self.gathered,
            "seconds": self.seconds,
            "rows": self.log.rows,
        }
        writes = [
            self.log.prepare(),
            self.checkpoints.prepare(step, self.variables, header),
        ]
        self.background.run(lambda: [write() for write in writes])

    def first_call(self, iterator, num_steps):
        """The first call, which traces and compiles; its time is printed."""
        with self.startup.part("trace"):
            self.steps.trace(iterator)
        name = f"compile and {num_steps} steps"
        with self.startup.part(name):
            values = self.steps.train_steps(iterator, num_steps)
        self.say(self.startup.line())
        return values, self.startup.seconds[name]

    def call(self, iterator, num_steps):
        """A call of several steps: its values, and the seconds it took."""
        began = time.monotonic()
        values = self.steps.train_steps(iterator, num_steps)
        return values, time.monotonic() - began

    def loop(self, start, should_stop, check):
        """Makes the steps from `start` on; `check` is called between calls."""
        iterator = self.iterator(start) if start < self.num_steps else None
        log_every = self.config["train"]["log_every_steps"]
        done = start
        call = self.first_call
        with Progress(
            self.num_steps, "step", "train", start, self.quiet
        ) as progress:
            while done < self.num_steps:
                stop = self.next_stop(done)
                values, seconds = call(iterator, stop - done)
                call = self.call
                self.seconds += seconds
                self.gathered.append((stop - done, values))
                done = stop
                progress.update(done, loss=f"{values['loss']:.4f}")
                if done % log_every == 0 or done == self.num_steps:
                    self.log_train(done)
                if done % self.eval_period == 0 and done < self.num_steps:
                    self.evaluate(done)
                if done % self.config["checkpoint"]["every_steps"] == 0:
                    self.save(done)
                # All workers stop at the same step, or the others would wait.
                asked = strategies.sum_over_workers(
                    self.strategy, should_stop()
                )
                if asked and done < self.num_steps:
                    self.save(done)
                    self.background.wait()
                    raise Interrupted(
                        f"Stopped at step {done} of {self.num_steps}; the "
                        "same command resumes from there."
                    )
                check()

    def log_train(self, step):
        gathered, seconds = self.gathered, self.seconds
        self.gathered, self.seconds = [], 0.0
        count = sum(n for n, _ in gathered)
        means = {
            name: sum(n * values[name] for n, values in gathered) / count
            for name in self.steps.train_values
        }
        if not self.model.is_stochastic:
            means["accuracy"] = means.pop("accuracy_stochastic")
        self.log.add(
            step,
            self.epoch(step),
            "train",
            {
                **means,
                "gradient_norm": gathered[-1][1]["gradient_norm"],
                **self.controls(step),
                "examples_per_second": count * self.batch_size / seconds,
            },
        )

    def finish(self, provenance) -> dict[str, Any]:
        """Evaluates, exports and writes the result."""
        values = self.evaluate(self.num_steps)
        self.save(self.num_steps)
        self.background.wait()
        result = {
            "step": self.num_steps,
            "num_epochs": self.config["num_epochs"],
            "num_train_examples": self.num_steps * self.batch_size
            if self.is_fresh
            else len(self.train_data[1]),
            "num_eval_examples": len(self.eval_data[1]),
            "dataset": self.dataset,
            **values,
        }
        self.export(SAVED_MODEL, self.num_steps, values, provenance)
        if self.monitor:
            result |= self.export_best(provenance)
        # Last: its presence says that the run is complete.
        files.write_json(files.join(self.workdir, RESULT_FILE), result)
        return result

    @property
    def dataset(self) -> dict[str, str]:
        """What clean accuracy is of, for result and metadata."""
        return {
            "name": self.source.name,
            "split": self.config["eval"]["split"],
            "description": self.source.description,
        }

    def export(self, name, step, values, provenance):
        """Writes the SavedModel of the weights as they are, with metadata."""
        with averaged_weights(self.model, self.optimizer):
            export.save(
                self.model,
                files.join(self.workdir, name),
                image_shape=self.source.image_shape,
                metadata={
                    "config": self.config,
                    "dataset": self.dataset,
                    "class_names": list(self.source.class_names),
                    "seed": self.config["seed"],
                    "step": step,
                    "clean_accuracy": values["accuracy"],
                    "clean_accuracy_stochastic": values.get(
                        "accuracy_stochastic"
                    ),
                    "versions": export.describe_versions(),
                    **provenance,
                },
            )

    def export_best(self, provenance) -> dict[str, Any]:
        """Exports the best step by PGD, if it is another than the last.

        Returns:
            Which step it is, for the result.
        """
        if best_step(self.log.rows) == self.num_steps:
            return {"best_step": self.num_steps}
        step = self.best.restore(self.variables, say=self.say)["step"]
        values = next(
            row
            for row in self.log.rows
            if row["kind"] == "eval" and row["step"] == step
        )
        self.export(BEST_SAVED_MODEL, step, values, provenance)
        return {"best_step": step}


def train(
    config: Mapping[str, Any],
    workdir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
    startup: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains, or resumes training, the classifier of a config.

    Args:
        config: Nested JSON values, as `configs/` makes them.
        workdir: Folder of checkpoints, logs and the SavedModel; the same
            config in the same folder resumes.
        strategy: Where to run; one device by default.
        should_stop: Called between calls; true saves a checkpoint and stops.
        watchdog_minutes: Ends the process with status 76 and the stack of
            every thread when no call of steps, evaluation or export ends for
            this long; 0 for never.
        startup: Name -> seconds of earlier parts of the start, to be printed
            with the time to the first step.
        provenance: JSON values for the metadata, such as the git commit.
        quiet: Prints nothing.

    Returns:
        What `result.json` holds: step, accuracies, loss, rate.

    Raises:
        UserError: If the config, the data or the workdir cannot be used, or
            another process holds the workdir.
        DivergedError: If the loss is no longer finite.
        Interrupted: If it was stopped; a checkpoint is saved.
    """
    # All checks come before anything is written.
    settings.check_start(config, workdir, is_alone=False)
    workdirs.check(workdir, config, MAY_DIFFER)
    done = files.join(workdir, RESULT_FILE)
    if files.exists(done):
        if not quiet:
            print(f"Nothing left to do: {done} is there.", flush=True)
        return files.read_json(done)
    strategy = strategy or strategies.get()
    with contextlib.ExitStack() as stack:
        stack.enter_context(strategies.watched(strategy))
        own = workdir
        if strategies.is_chief(strategy):
            workdirs.check_free(workdir)
        else:
            # All workers do the same; files of the others are temporary.
            own = stack.enter_context(tempfile.TemporaryDirectory())
            quiet = True
        run = _Run(config, own, strategy, quiet, Startup(startup))
        workdirs.claim(own, config, MAY_DIFFER)
        lock = stack.enter_context(workdirs.lock(own, run.say))
        watchdog = stack.enter_context(Watchdog(watchdog_minutes * 60))
        stack.enter_context(run.background)

        def check():
            lock.check()
            run.background.check()
            watchdog.beat()

        run.loop(run.restore(workdir), should_stop, check)
        result = run.finish(dict(provenance or {}))
        # A worker that ends early would look lost to those that still write.
        strategies.sum_over_workers(strategy, 1)
        return result
