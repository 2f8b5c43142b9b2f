"""Which classes and functions the `config.json` of a `.keras` file may name."""

import dataclasses
import re
from typing import Any

from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import shown

_LAYERS = """
Activation ActivityRegularization AdaptiveAveragePooling1D
AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout
Attention AugMix AutoContrast Average AveragePooling1D AveragePooling2D
AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop
Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot
Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell
GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell
LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D
Maximum Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute
Pipeline RMSNormalization RNN RandAugment RandomBrightness
RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization
RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation
RandomZoom ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D
SeparableConv2D SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D
SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells
Subtract TimeDistributed UnitNormalization UpSampling1D UpSampling2D
UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""

# Module, as a pattern -> the names of its classes; None means all, for modules
# of only arithmetic.
_CLASSES = {
    r"keras\.layers": frozenset(_LAYERS.split()),
    r"keras": frozenset(
        ["DTypePolicy", "DTypePolicyMap", "Functional", "Sequential"]
    ),
    r"keras\.models|keras\.src\.models\.(functional|sequential)": frozenset(
        ["Functional", "Sequential"]
    ),
    r"keras\.dtype_policies": frozenset(["DTypePolicy", "DTypePolicyMap"]),
    r"keras\.random": frozenset(["SeedGenerator"]),
    r"keras\.src\.random\.seed_generator": frozenset(["SeedGenerator"]),
    r"keras\.(initializers|regularizers|constraints)": None,
    r"keras\.src\.ops\.(numpy|nn|math|linalg)": None,
    r"ib_keras\.(classifier|layers|schedules)": None,
    r"ib_keras\.(bottlenecks|encoders)\.[a-z][a-z0-9_]*": None,
}

# Values that Keras writes as dictionaries.
_VALUES = frozenset(
    {
        "__bytes__",
        "__ellipsis__",
        "__keras_tensor__",
        "__numpy__",
        "__slice__",
        "__tensor__",
    }
)

# Plain functions: any with a function's name in these modules.
_FUNCTIONS = re.compile(r"keras\.activations|keras\.src\.activations\.\w+")

# The effect of these does not follow from the config, so no flag allows them.
_NEVER = frozenset(
    {
        "FlaxLayer",
        "JaxLayer",
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
        "__lambda__",
        "__typespec__",
        "function",
    }
)
_MAX_DEPTH = 200


@dataclasses.dataclass
class Found:
    """The findings in a config.

    Attributes:
        problems: What is not allowed.
        names: "module.class" of all classes and functions.
        used: What `allow_ops` was needed for.
    """

    problems: list[Problem] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)
    used: set[str] = dataclasses.field(default_factory=set)


def scan(config: Any, allowed: frozenset[str]) -> Found:
    """Checks every dictionary of a config that could become an object.

    Args:
        config: The content of `config.json`.
        allowed: "module.class" names that are accepted beyond the list.

    Returns:
        A `Found`.
    """
    found = Found()
    _walk(config, "config", allowed, found, 0)
    return found


def _walk(value, place, allowed, found, depth):
    if depth > _MAX_DEPTH:
        found.problems.append(Problem(f"a config deeper than {_MAX_DEPTH}"))
        return
    if isinstance(value, list):
        for item in value:
            _walk(item, place, allowed, found, depth + 1)
    if not isinstance(value, dict):
        return
    if "class_name" in value:
        place = _check(value, place, allowed, found)
    for item in value.values():
        _walk(item, place, allowed, found, depth + 1)


def _check(value, place, allowed, found):
    """Checks one object of the config; returns its name for messages."""
    name, module = value["class_name"], value.get("module")
    registered = value.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None):
        found.problems.append(Problem(f"a class without a name in {place}"))
        return place
    if name in _VALUES:
        return place
    full = f"{module}.{name}" if module else name
    if name == "function":
        full = f"{module}.{value.get('config')}"
        if _is_function(module, value.get("config")):
            found.names.add(full)
            return place
        what = f"the function {shown(full)} in {place}"
        found.problems.append(Problem(what))
        return place
    found.names.add(full)
    here = shown(_title(value, full))
    if _is_class(module, name, registered):
        return here
    token = None if name in _NEVER or not module else full
    if token in allowed:
        found.used.add(token)
        return here
    if token is not None and not re.fullmatch(r"[\w.>]{1,200}", token):
        token = None
    what = f"the class {shown(full)} in {place}"
    found.problems.append(Problem(what, token))
    return here


def _title(value, full):
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"{full} {name}" if isinstance(name, str) else full


def _is_class(module, name, registered):
    """Whether Keras resolves it to a class on the list, and to no other."""
    own = f"ib_keras>{name}"
    if registered not in (None, name, own):
        return False
    for pattern, names in _CLASSES.items():
        if re.fullmatch(pattern, module or ""):
            return names is None or name in names
    return False


def _is_function(module, name):
    return (
        isinstance(name, str)
        and re.fullmatch(r"[a-z0-9_]+", name) is not None
        and name not in ("deserialize", "get", "serialize")
        and _FUNCTIONS.fullmatch(module or "") is not None
    )
