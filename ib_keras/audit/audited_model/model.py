"""The audited model: any model, as functions to logits.

`load` takes a SavedModel folder or a .keras file, `from_function` a Python
function. What the graph does not determine, `AuditedModel.infer_io` infers by a
few calls on clean examples; if that is ambiguous it raises an error. Each part
can be specified instead: see `options.Options`.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import export
from ib_keras.audit.audited_model import infer_io
from ib_keras.audit.audited_model import io_spec as io_specs
from ib_keras.audit.audited_model import loading
from ib_keras.audit.audited_model import signatures
from ib_keras.audit.audited_model.io_spec import IOSpec
from ib_keras.audit.audited_model.options import MODES
from ib_keras.audit.audited_model.options import Options
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from ib_keras.audit.audited_model.signatures import Endpoint
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import LogitsFn


@dataclasses.dataclass(frozen=True)
class AuditedModel:
    """A loaded model and the facts on it.

    Attributes:
        path: The folder or file; the name of a function.
        sha256: Of the folder, over the names and digests of its files, or of
            the file; of a function over its variables and the operations and
            values of its graph.
        metadata: The JSON asset; empty where the model has none.
        loaded: What TensorFlow or Keras loaded, or the function.
        kind: "ib_keras", "saved_model", "keras" or "function".
        endpoint: Which function of it is audited in mean mode.
        options: What the user has specified.
        io_spec: How images go in and scores come out; None until inferred.
        notes: Sentences on unusual findings.
        safety: Report of the safety check; None for a function.
    """

    path: str
    sha256: str
    metadata: dict[str, Any]
    loaded: Any
    kind: str
    endpoint: Endpoint
    options: Options = dataclasses.field(default_factory=Options)
    io_spec: IOSpec | None = None
    notes: tuple[str, ...] = ()
    safety: Any = None

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(height, width, channels) of the audit; None if not yet known."""
        if self.io_spec is not None:
            return self.io_spec.image_shape
        said = self.metadata.get("input_shape")
        shape = self.endpoint.shape
        if said is not None and io_specs.layouts(shape, said):
            return tuple(said)
        # What is first of (3, 32, 32) only a data set can tell.
        known = tuple(size for size in shape or () if size is not None)
        is_last = len(shape or ()) == len(known) == 3 and known[2] in (1, 3)
        return known if is_last else None

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if not yet known."""
        if self.io_spec is not None:
            return self.io_spec.num_classes
        return self.metadata.get("num_classes")

    @property
    def is_stochastic(self) -> bool:
        """Whether there is an endpoint for stochastic mode."""
        # A SavedModel of other code may have a function of that name.
        return self.kind != "saved_model" and hasattr(self.loaded, "stochastic")

    @property
    def precision(self) -> str | None:
        """The precision of the audited function; None without a graph."""
        return self.endpoint.precision

    @property
    def other_precision(self) -> "AuditedModel | None":
        """The same weights in the other precision, if they were exported.

        For a model that computes below float32 it is the endpoint in float32,
        and the other way round.
        """
        name = self.endpoint.name.removesuffix(export.FLOAT32_SUFFIX)
        if name == self.endpoint.name:
            name += export.FLOAT32_SUFFIX
        is_there = self.kind == "ib_keras" and hasattr(self.loaded, name)
        if not is_there:
            return None
        endpoint = signatures.choose(self.loaded, name, self.path)
        return dataclasses.replace(self, endpoint=endpoint)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images in [0, 1] before the model sees them."""
        return (self.io_spec or self._declared()).preprocessing

    @property
    def said_preprocessing(self) -> Preprocessing | None:
        """The preprocessing by user or metadata, if specified."""
        said = self.options.said_preprocessing
        range_ = self.metadata.get("input_range")
        # A wrapper of an exported model has its metadata, and may take images
        # of other values.
        is_theirs = self.kind not in ("ib_keras", "function")
        if said is None and range_ is not None and not is_theirs:
            return Preprocessing.of_range(*map(float, range_))
        return said

    @property
    def about(self) -> dict[str, Any]:
        """The metadata, corrected by the graph."""
        return {
            **self.metadata,
            "input_shape": self.image_shape,
            "num_classes": self.num_classes,
        }

    def describe(self) -> dict[str, Any]:
        """The section on the model in summary.json."""
        io_spec = self.io_spec or self._declared()
        return {
            "path": self.path,
            "sha256": self.sha256,
            "metadata": self.metadata,
            "kind": self.kind,
            "signature": self.endpoint.name,
            "precision": self.precision,
            "output": io_spec.output,
            "outputs": io_spec.outputs,
            "input_range": list(io_spec.preprocessing.input_range),
            "preprocessing": io_spec.preprocessing.to_json(),
            "layout": io_spec.layout,
            "image_shape": list(io_spec.image_shape),
            "num_classes": io_spec.num_classes,
            "notes": list(self.notes),
        }

    def with_options(self, options: Options) -> "AuditedModel":
        """The same with options that override earlier ones."""
        said = {k: v for k, v in vars(options).items() if v is not None}
        merged = dataclasses.replace(self.options, **said)
        return dataclasses.replace(self, options=merged)

    def with_notes(self, *notes: str) -> "AuditedModel":
        """The same with more notes, each once."""
        more = dict.fromkeys((*self.notes, *notes))
        return dataclasses.replace(self, notes=tuple(more))

    def state_hash(self) -> dict[str, str]:
        """SHA-256 of each variable that the graph uses, by name."""
        return {
            f"{index}:{variable.name}": hashlib.sha256(
                tf.convert_to_tensor(variable).numpy().tobytes()
            ).hexdigest()
            for index, variable in enumerate(self.endpoint.variables)
        }

    def logits_fn(self, mode: str, num_samples: int | None = None) -> LogitsFn:
        """The classifier that is audited, as attacks see it.

        Args:
            mode: "mean" or "stochastic".
            num_samples: S of stochastic mode; None takes the model's own.

        Returns:
            A function `(images, seed) -> logits`.

        Raises:
            UserError: If the model has no such endpoint, or its inputs and
                outputs are not known yet.
        """
        io_spec = self.io_spec or self._declared()
        call = self.caller(mode, num_samples)
        return io_specs.wrap(call, self.endpoint, io_spec)

    def caller(
        self, mode: str, num_samples: int | None = None
    ) -> Callable[[tf.Tensor, tf.Tensor], Any]:
        """The model unchanged: `(its images, seed) -> its output`.

        Raises:
            UserError: If the model has no such endpoint.
        """
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES, "Set mode to one of them.")
        # Referenced in the functions to keep `loaded` alive: without it
        # TensorFlow frees the variables that they use.
        loaded, endpoint = self.loaded, self.endpoint
        if mode == "mean":
            return lambda images, seed: _alive(endpoint.call(images), loaded)
        if not self.is_stochastic:
            raise UserError(
                "The model has no endpoint for stochastic mode",
                received=f"{self.path} with {endpoint.name}",
                expected='an endpoint "stochastic"',
                fix="Deterministic models have mean mode alone; set mode.",
            )
        count = int(num_samples or self.metadata.get("num_samples") or 1)
        name = "stochastic"
        if endpoint.name.endswith(export.FLOAT32_SUFFIX):
            name += export.FLOAT32_SUFFIX
        return lambda images, seed: getattr(loaded, name)(
            images, seed, tf.constant(count, tf.int32)
        )

    def _notes_on_precision(self) -> list[str]:
        """Sentences on what computes below float32, if anything does."""
        other, name = self.other_precision, self.endpoint.name
        if self.precision == "float32" and other is not None:
            return [
                f"The model computes in {other.precision}; audited is "
                f"{name}, by the same weights in float32. Set "
                "--config.model.signature=mean to audit it as it is."
            ]
        if self.precision in (None, "float32"):
            return []
        way = (
            f"leave out --config.model.signature to audit {other.endpoint.name}"
            if other is not None
            else "there is no float32 endpoint to compare it with; export one"
        )
        return [
            f"Warning: {name} computes in {self.precision}, whose gradients "
            f"are coarse and can vanish where float32's do not; {way}."
        ]

    def _declared(self) -> IOSpec:
        """The specification by metadata and options alone."""
        if self.image_shape is None or self.num_classes is None:
            raise UserError(
                "The model's inputs and outputs are not known yet",
                received=self.path,
                expected="a model that `infer_io` has been called on",
                fix="Call model.infer_io(images, labels) with clean examples.",
            )
        options = self.options
        return IOSpec(
            self.image_shape,
            options.layout or "channels_last",
            self.said_preprocessing or Preprocessing(),
            options.output or "",
            options.outputs or "logits",
            self.num_classes,
        )

    def infer_io(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mode: str = "mean",
        num_samples: int | None = None,
    ) -> "AuditedModel":
        """Infers the inputs and outputs of the model.

        Args:
            images: float32 `[examples, height, width, channels]`, clean.
            labels: int `[examples]`.
            mode: Which mode is called.
            num_samples: S of stochastic mode.

        Returns:
            A model with an `io_spec`, and notes on what was inferred.

        Raises:
            UserError: If something is ambiguous; names the flag that decides.
        """
        return infer_io.infer_io(self, images, labels, mode, num_samples)


def _alive(answer, loaded):
    del loaded
    return answer


def load(
    path: str,
    strategy: tf.distribute.Strategy | None = None,
    options: Options | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    batch_size: int | None = None,
) -> AuditedModel:
    """Loads a SavedModel folder or a .keras file, after the safety check.

    Args:
        path: Of the model.
        strategy: Its devices get the variables.
        options: What the user specifies.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.
        batch_size: The largest batch that it will be called on, which the
            child then tries; None for small ones.

    Returns:
        An `AuditedModel`, which `infer_io` makes ready.

    Raises:
        UserError: If there is no model, it is damaged, or it has no function
            of images alone.
        UnsafeError: If it holds what could do harm.
    """
    path = path.rstrip("/")
    options = options or Options()
    loading.check_path(path)
    is_keras = loading.is_keras(path)
    loaded, report, metadata = loading.load(
        path, strategy, allow_ops, probe, batch_size
    )
    if is_keras:
        kind = "keras"
        endpoint = loading.keras_endpoint(loaded, "call", path)
        loaded, metadata = loading.with_modes(loaded)
    else:
        is_ours = metadata is not None and hasattr(loaded, "mean")
        kind = "ib_keras" if is_ours else "saved_model"
        wanted = options.signature
        twin = f"mean{export.FLOAT32_SUFFIX}"
        if wanted is None and is_ours and hasattr(loaded, twin):
            wanted = twin
        endpoint = signatures.choose(loaded, wanted, path)
    model = AuditedModel(
        path,
        loading.sha256(report),
        metadata or {},
        loaded,
        kind,
        endpoint,
        options,
        safety=report,
    )
    return model.with_notes(*model._notes_on_precision())


def from_function(
    function: Callable[[tf.Tensor], Any],
    image_shape: Sequence[int],
    num_classes: int,
    *,
    stochastic: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any] | None = None,
    num_samples: int | None = None,
    output: str | None = None,
    outputs: str | None = None,
    input_range: tuple[float, float] = (0.0, 1.0),
    name: str = "function",
) -> AuditedModel:
    """Makes an audited model of a Python function, such as a Keras model.

    Args:
        function: `(images) -> scores [batch, classes]`, differentiable.
        image_shape: (height, width, channels).
        num_classes: How many scores there are.
        stochastic: `(images, seed int32 [2], num_samples) -> scores`, for
            stochastic mode.
        num_samples: S of stochastic mode, where the audit does not say.
        output: Name of the tensor among several that it returns.
        outputs: "logits", "log_probabilities" or "probabilities"; None infers.
        input_range: (lowest, highest) value of the images it takes.
        name: In reports.

    Returns:
        An `AuditedModel`, as `load` gives for a path.
    """
    traced = _trace(function, image_shape)
    if hasattr(function, "variables"):
        variables = tuple(
            getattr(v, "value", v) if not isinstance(v, tf.Variable) else v
            for v in function.variables
        )
    else:
        variables = tuple(v for graph in traced for v in _variables(graph))
    endpoint = Endpoint("function", function, held=variables)
    loaded = _Functions(function, stochastic)
    model = AuditedModel(
        path=name,
        sha256="",
        metadata={
            "input_shape": list(image_shape),
            "num_classes": int(num_classes),
            "num_samples": num_samples,
        },
        loaded=loaded,
        kind="function",
        endpoint=endpoint,
        options=Options(
            output=output, outputs=outputs, input_range=input_range
        ),
    )
    values = [value for graph in traced for value in _values(graph)]
    state = "".join([name, *model.state_hash().values(), *values])
    digest = hashlib.sha256(state.encode()).hexdigest()
    return dataclasses.replace(model, sha256=digest)


class _Functions:
    """`AuditedModel.loaded` of a Python function."""

    def __init__(self, mean, stochastic):
        self.mean = mean
        if stochastic is not None:
            self.stochastic = stochastic


def _trace(function, image_shape) -> list[Any]:
    """The graph of a function, in a list; empty if it cannot be traced."""
    spec = tf.TensorSpec([2, *image_shape], tf.float32)
    try:
        return [tf.function(function).get_concrete_function(spec)]
    except Exception:  # Foreign code; calling it raises the error again.
        return []


def _variables(graph) -> list[tf.Variable]:
    """The variables of a graph in the order of capture; it has a set."""
    places = {id(t): place for place, t in enumerate(graph.captured_inputs)}
    return sorted(graph.variables, key=lambda v: places[id(v.handle)])


def _values(graph) -> list[str]:
    """Sorted digests of the constants and operations of a graph.

    Names of nodes and functions are left out: they depend on other traces.
    """
    definition = graph.graph.as_graph_def()
    bodies = [f.node_def for f in definition.library.function]
    parts = [
        node.op.encode() + node.attr["value"].SerializeToString()
        if node.op == "Const"
        else node.op.encode()
        for body in (definition.node, *bodies)
        for node in body
    ]
    held = (t for t in graph.captured_inputs if t.dtype != tf.resource)
    parts += [tensor.numpy().tobytes() for tensor in held]
    return sorted(hashlib.sha256(part).hexdigest() for part in parts)
