"""Which function of a loaded SavedModel is the classifier.

Exporters name and shape their functions in many ways; here each becomes an
`Endpoint`: a function of one tensor of images, and what its graph tells.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

# Usual names of the function to serve, the most explicit one first.
_USUAL = ("mean", "serving_default", "serve", "__call__")
# Keras layers that are random in training and should not be at inference.
_AUGMENTATION = re.compile(
    r"(?:^|/)((?:random_(?:flip|rotation|crop|translation|zoom|brightness"
    r"|contrast|saturation|hue|shear|erasing|gaussian_blur|color_jitter"
    r"|color_degeneration|posterization|invert|grayscale|sharpness"
    r"|perspective|elastic_transform|height|width)"
    r"|rand_augment|aug_mix|mix_up|cut_mix|gaussian_noise"
    r"|(?:spatial_|gaussian_|alpha_)?dropout)(?:\d[dD])?)(?:_\d+)*/"
)
_RANDOM_OPS = re.compile(r"Random|Multinomial|TruncatedNormal|ParameterizedT")
# Operations that only pass numbers on, or describe their stored type.
_PASSING_OPS = frozenset(
    {"Cast", "Const", "Identity", "Placeholder", "Pack", "Reshape", "Shape"}
)
_SHORT_TYPES = frozenset(
    kind.as_datatype_enum
    for kind in (
        tf.float16,
        tf.bfloat16,
        tf.dtypes.experimental.float8_e4m3fn,
        tf.dtypes.experimental.float8_e5m2,
    )
)
_ASSIGN_OPS = re.compile(r"^(Resource)?(Assign|Scatter)|^CountUpTo$")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A function of images, as it was saved.

    Attributes:
        name: In the model.
        call: Takes images in the model's own shape, dtype and units.
        spec: Of those images; None without a graph.
        concrete: Its graph; None for a Python function.
        held: Variables that are in no graph.
    """

    name: str
    call: Callable[[tf.Tensor], Any]
    spec: tf.TensorSpec | None = None
    concrete: Any = None
    held: tuple[tf.Variable, ...] = ()

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of one image, None where open; None if the rank is open."""
        if self.spec is None or self.spec.shape.rank is None:
            return None
        return tuple(self.spec.shape)[1:]

    @property
    def batch_size(self) -> int | None:
        """The only batch size that it takes; None if it takes all."""
        if self.spec is None or not self.spec.shape.rank:
            return None
        return self.spec.shape[0]

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """The variables that its graph reads or writes."""
        if self.concrete is None:
            return self.held
        return tuple(self.concrete.graph.variables)

    @property
    def precision(self) -> str | None:
        """The shortest float type that its graph computes in.

        "float32" where there is none shorter; None without a graph. A cast to a
        shorter type counts, since it rounds, and one back does not.
        """
        if self.concrete is None:
            return None
        found = set()
        for node in self._all_nodes():
            if node.op == "Cast":
                found.add(node.attr["DstT"].type)
            elif node.op not in _PASSING_OPS:
                found.add(node.attr["T"].type)
        short = [tf.as_dtype(kind) for kind in found & _SHORT_TYPES]
        return min(short, key=lambda t: t.size).name if short else "float32"

    def _all_nodes(self):
        """The nodes of its graph and of the functions it calls."""
        graph = self.concrete.graph.as_graph_def()
        bodies = [f.node_def for f in graph.library.function]
        return [node for body in (graph.node, *bodies) for node in body]

    def nodes(self) -> tuple[set[str], set[str]]:
        """Names and operations of all nodes that a call can reach."""
        if self.concrete is None:
            return set(), set()
        nodes = self._all_nodes()
        return {node.name for node in nodes}, {node.op for node in nodes}

    def randomness(self) -> dict[str, list[str]]:
        """Nodes of the graph that could make answers differ between calls.

        Returns:
            Names of augmentation layers, of random operations and of
            operations that write variables, each sorted.
        """
        names, ops = self.nodes()
        layers = [
            found for name in names for found in _AUGMENTATION.findall(name)
        ]
        return {
            "augmentation": sorted(set(layers)),
            "random_ops": sorted(op for op in ops if _RANDOM_OPS.search(op)),
            "assign_ops": sorted(op for op in ops if _ASSIGN_OPS.search(op)),
        }


def endpoints(loaded: Any) -> dict[str, list[Any]]:
    """Lists the functions of a loaded SavedModel and their graphs.

    Args:
        loaded: What `tf.saved_model.load` returned.

    Returns:
        Name -> concrete functions. A saved function goes before a signature
        of the same name, which is made of it.
    """
    found = {}
    public = [name for name in dir(loaded) if not name.startswith("_")]
    for name in (*public, "__call__"):
        part = getattr(loaded, name, None)
        if concrete := list(getattr(part, "concrete_functions", ())):
            found[name] = concrete
    for name, signature in getattr(loaded, "signatures", {}).items():
        found.setdefault(name, [signature])
    return found


def _tensors(concrete) -> list[tf.TensorSpec]:
    arguments = concrete.structured_input_signature
    return [
        spec
        for spec in tf.nest.flatten(arguments)
        if isinstance(spec, tf.TypeSpec)
    ]


def choose(loaded: Any, wanted: str | None, path: str) -> Endpoint:
    """Chooses the endpoint to audit.

    Args:
        loaded: What `tf.saved_model.load` returned.
        wanted: Its name; None chooses a usual name, or the only function.
        path: Of the model, for messages.

    Returns:
        The `Endpoint`.

    Raises:
        UserError: If there is none, there are several of unknown names, or
            it is not a function of images alone.
    """
    found = endpoints(loaded)
    if not found:
        raise UserError(
            "The SavedModel has no function to call",
            received=path,
            expected="a signature or a saved tf.function",
            fix="Export it with model.export, or with signatures given to "
            "tf.saved_model.save.",
        )
    if wanted is None:
        usual = [name for name in _USUAL if name in found]
        if not usual and len(found) > 1:
            raise UserError(
                "The SavedModel has several functions, none of a usual name",
                received=f"{path} with {', '.join(sorted(found))}",
                expected="the name of the one that classifies",
                fix="Set --config.model.signature to it.",
            )
        wanted = (usual or list(found))[0]
    if wanted not in found:
        raise unknown_name(
            "signature of the SavedModel",
            wanted,
            found,
            "Set --config.model.signature to one of them.",
        )
    return _endpoint(wanted, found[wanted], path)


def _endpoint(name, concretes, path):
    simple = [c for c in concretes if len(_tensors(c)) == 1]
    if not simple:
        shapes = [str(spec) for spec in _tensors(concretes[0])]
        raise UserError(
            "The endpoint takes more than images",
            received=f'"{name}" of {path}, which takes '
            f"{', '.join(shapes) or 'nothing'}",
            expected="one tensor, a batch of images",
            fix="Name another by --config.model.signature, or export one.",
        )
    # Of the traces of one function the one for inference is chosen; those for
    # training differ by a Python argument.
    concrete = _for_inference(simple)
    spec = _tensors(concrete)[0]
    if not (spec.dtype.is_floating or spec.dtype == tf.uint8):
        raise UserError(
            "The endpoint does not take images of numbers",
            received=f'"{name}" of {path}, which takes {spec.dtype.name}',
            expected="float images [batch, height, width, channels]",
            fix="Export a signature of float images, the decoding left out.",
        )
    keywords = concrete.structured_input_signature[1]
    keys = [key for key, value in keywords.items() if value is spec]

    def call(images):
        return concrete(**{keys[0]: images}) if keys else concrete(images)

    return Endpoint(name, call, spec, concrete)


def _for_inference(concretes):
    for concrete in concretes:
        arguments, keywords = concrete.structured_input_signature
        values = [*arguments, *keywords.values()]
        if not any(value is True for value in values):
            return concrete
    return concretes[0]
