"""The policy on operations, against TensorFlow's own tables."""

import json

import pytest
import tensorflow as tf

from ib_keras.audit.safety import ops
from ib_keras.audit.safety import regenerate

# What each would do, by the documentation of TensorFlow.
HARMFUL = {
    "runs Python code": ["PyFunc", "EagerPyFunc", "PyFuncStateless"],
    "writes files": [
        "WriteFile",
        "SaveV2",
        "PrintV2",
        "DebugIdentityV2",
        "WriteSummary",
        "DatasetToTFRecord",
        "MergeV2Checkpoints",
    ],
    "reads files": [
        "ReadFile",
        "MatchingFiles",
        "RestoreV2",
        "DecodeProtoV2",
        "TFRecordDataset",
        "InitializeTableFromTextFileV2",
        "ImmutableConst",
    ],
    "reaches the network or other devices": [
        "CollectiveReduceV2",
        "RemoteCall",
        "XlaSend",
        "_Send",
    ],
    "custom call into native code": ["XlaCallModule", "XlaCustomCallV2"],
    "can end the process": ["Abort"],
}


@pytest.mark.parametrize(
    ("why", "name"),
    [(why, name) for why, names in HARMFUL.items() for name in names],
)
def test_a_harmful_operation_is_refused_with_its_reason(why, name):
    assert ops.definition(name) is not None
    assert name not in ops.allowed()
    assert ops.why_refused(name) == why


def test_only_operations_of_tensorflow_are_allowed():
    assert [n for n in ops.allowed() if ops.definition(n) is None] == []


def test_no_allowed_operation_works_on_files_or_data_sets():
    words = ("File", "Dataset", "Reader", "Iterator", "Proto", "Restore")
    names = ops.allowed()
    assert [n for n in names if any(word in n for word in words)] == []


def test_the_table_is_the_one_of_this_tensorflow():
    table = json.loads(ops.XLA_OPS_FILE.read_text())
    if table["tensorflow"] != tf.__version__:
        pytest.skip(f"the table is of TensorFlow {table['tensorflow']}")
    assert regenerate.names() == table["ops"]


def test_what_honest_models_were_seen_to_hold_is_allowed(shared_folder):
    seen = json.loads((shared_folder / "honest_ops.json").read_text())
    # A print to standard error is refused, since its target is an attribute.
    printing = {"PrintV2", "StringFormat"}
    assert set(seen) - ops.allowed() - ops.SAVER_OPS == printing


# What the allow-list of XLA leaves out, and models for images hold.
COMPUTES = [
    "ResizeBicubic",
    "ResizeArea",
    "ScaleAndTranslate",
    "CropAndResize",
    "MaxPoolWithArgmax",
    "ImageProjectiveTransformV3",
    "Dilation2D",
    "SegmentMean",
    "LookupTableImportV2",
]


@pytest.mark.parametrize("name", COMPUTES)
def test_what_only_computes_is_allowed(name):
    assert ops.definition(name) is not None
    assert name in ops.allowed()
