"""Which operations a model may hold: a list of what is allowed.

Allowed are operations that XLA can compile, except those that leave the program
nevertheless (custom calls, sends, collectives), plus a few that honest
classifiers need. All others are refused by name. TensorFlow's own flag
`is_stateful` does not help: operations that read files are registered as
stateless.
"""

import functools
import json
import pathlib
import re

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

XLA_OPS_FILE = pathlib.Path(__file__).with_name("xla_ops.json")

# XLA has kernels for these, but they have effects beyond the computation.
_ESCAPES = re.compile(
    r"XlaCallModule|XlaCustomCall.*|XlaSend.*|XlaRecv.*|Collective.*"
    r"|XlaAllReduce|XlaReduceScatter|_.*"
)

_RESAMPLES = "computes pixels of its output from those of its input"

# Without a kernel for XLA on CPUs, but used by honest classifiers: name -> what
# it does.
_EXTRA = {
    "CropAndResize": _RESAMPLES,
    "CropAndResizeGradBoxes": "the gradient of CropAndResize",
    "CropAndResizeGradImage": "the gradient of CropAndResize",
    "Dilation2D": "takes maxima over windows",
    "Dilation2DBackpropFilter": "the gradient of Dilation2D",
    "Dilation2DBackpropInput": "the gradient of Dilation2D",
    "DisableCopyOnRead": "says how a variable of the model is read",
    "HashTableV2": "makes a table in memory",
    "ImageProjectiveTransformV2": _RESAMPLES,
    "ImageProjectiveTransformV3": _RESAMPLES,
    "LookupTableFindV2": "reads a table in memory",
    "LookupTableImportV2": "fills a table in memory from tensors",
    "LookupTableSizeV2": "the size of a table in memory",
    "MaxPoolGradWithArgmax": "the gradient of MaxPoolWithArgmax",
    "MaxPoolWithArgmax": "takes maxima over windows, and where they were",
    "Placeholder": "is an input",
    "PlaceholderWithDefault": "is an input",
    "ResizeArea": _RESAMPLES,
    "ResizeBicubic": _RESAMPLES,
    "ResizeBicubicGrad": "the gradient of ResizeBicubic",
    "ScaleAndTranslate": _RESAMPLES,
    "ScaleAndTranslateGrad": "the gradient of ScaleAndTranslate",
    "SegmentMax": "takes maxima of rows",
    "SegmentMean": "takes means of rows",
    "SegmentMin": "takes minima of rows",
    "SegmentProd": "takes products of rows",
    "SegmentSum": "takes sums of rows",
    "VarHandleOp": "names a variable of the model",
    "VarIsInitializedOp": "whether a variable of the model has a value",
}

# Allowed in the main graph alone, where variables that are saved are made.
VARIABLE_OPS = frozenset({"VarHandleOp"})

# Allowed in initialisers alone: elsewhere a table would be the model's memory.
TABLE_WRITERS = frozenset({"LookupTableImportV2"})

# Only in the two functions that write and read the model's own variables.
SAVER_OPS = frozenset(
    {
        "MergeV2Checkpoints",
        "RestoreV2",
        "SaveV2",
        "ShardedFilename",
        "StaticRegexFullMatch",
        "StringJoin",
    }
)

# All that a table filled from constants runs when a model is loaded.
LOAD_TIME_OPS = frozenset(
    {
        "Const",
        "HashTableV2",
        "Identity",
        "LookupTableImportV2",
        "NoOp",
        "PartitionedCall",
        "Placeholder",
        "StatefulPartitionedCall",
    }
)

# Attributes that TensorFlow adds to nodes and functions by itself.
HIDDEN_ATTRIBUTES = frozenset(
    {
        "_XlaHasReferenceVars",
        "_XlaMustCompile",
        "_acd_function_control_output",
        "_class",
        "_cloned",
        "_collective_manager_ids",
        "_construction_context",
        "_disable_acd",
        "_disable_call_shape_inference",
        "_gradient_op_type",
        "_has_manual_control_dependencies",
        "_input_shapes",
        "_lower_using_switch_merge",
        "_noinline",
        "_num_original_outputs",
        "_original_func_name",
        "_output_shapes",
        "_read_only_resource_inputs",
        "_stateful_parallelism",
        "_user_specified_name",
        "_xla_inferred_shapes",
        "backward_function_name",
        "forward_function_name",
    }
)

# Family -> names that are allowed but reported; the first match counts.
_REPORTED = {
    "can stop a batch": r"Assert|CheckNumerics",
    "random without a seed": r"Random.*|Multinomial"
    r"|ParameterizedTruncatedNormal|TruncatedNormal|Stateful(?!PartitionedCall).*|Rng.*",
    "writes variables": r"Assign.*|Resource(Apply|Scatter|Strided).*",
    "loops": r"While|StatelessWhile|XlaWhile",
    "tables": r"HashTable.*|LookupTable.*",
}

# What a refused operation could do; the first match counts.
_REFUSED = {
    "runs Python code": r".*PyFunc.*|GeneratorDataset.*|_?XlaHostCompute.*",
    "custom call into native code": r"XlaCallModule|XlaCustomCall.*|TRT.*",
    "writes files": r"WriteFile|Save.*|Snapshot.*|CacheDataset.*"
    r"|DatasetToTFRecord|MergeV2Checkpoints|.*Summary.*|Print.*|Debug.*",
    "reads files": r"ReadFile|MatchingFiles|.*Reader.*|Restore.*"
    r"|TextLine.*|TFRecord.*|FixedLength.*|CSVDataset.*|SqlDataset.*|LMDB.*"
    r"|LoadDataset.*|ImmutableConst|LoadAndRemap.*|GenerateVocabRemapping"
    r"|InitializeTableFromTextFile.*|DecodeProto.*|EncodeProto.*"
    r"|DTensorRestore.*",
    "reaches the network or other devices": r"DataService.*|RegisterDataset.*"
    r"|_?(Host)?Send|_?(Host)?Recv|RemoteCall|Collective.*|Nccl.*|Xla(Send|Recv)"
    r".*|ConfigureDistributed.*|FileSystemSetConfiguration|Rpc.*|TryRpc.*"
    r"|XlaAllReduce|XlaReduceScatter",
    "can end the process": r"Abort|XlaLaunch.*|_Xla.*",
    "data set, which can hold a graph that no scan sees": r".*Dataset.*"
    r"|.*Iterator.*",
    "decodes bytes; export a signature that takes float images": r"Decode.*"
    r"|Parse.*|Unicode.*",
    "works on strings": r"String.*|Regex.*|StaticRegex.*|AsString|Reduce"
    r"Join.*|ShardedFilename|Substr.*",
}


@functools.cache
def allowed() -> frozenset[str]:
    """Names of the operations that may be anywhere in a model."""
    table = json.loads(XLA_OPS_FILE.read_text(encoding="utf-8"))["ops"]
    return frozenset(_EXTRA) | {
        name for name in table if not _ESCAPES.fullmatch(name)
    }


def definition(name: str):
    """The `OpDef` of an operation in TensorFlow; None if unknown."""
    return op_def_registry.get(name)


@functools.cache
def family(name: str) -> str:
    """The family by which the report lists an allowed operation."""
    for title, pattern in _REPORTED.items():
        if re.fullmatch(pattern, name):
            return title
    return "computes"


@functools.cache
def why_refused(name: str) -> str:
    """Why an operation is refused, in a few words."""
    if definition(name) is None:
        return "unknown to TensorFlow; it needs a library of custom operations"
    for title, pattern in _REFUSED.items():
        if re.fullmatch(pattern, name):
            return title
    return "not on the list of what is allowed"


def known() -> list[str]:
    """Names of all operations of this TensorFlow."""
    return sorted(dir(tf.raw_ops))
