"""fingerprint.pb, which TensorFlow writes into SavedModels but never checks."""

import os

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

from ib_keras.audit.safety import tree


def notes(folder: str, names: list[str]) -> list[str]:
    """Sentences on whether the graph is the one that the fingerprint names.

    Args:
        folder: Local folder of a SavedModel that has passed the scan.
        names: Its files.

    Returns:
        No or one sentence. A fingerprint is not a signature: it can be forged.
        It detects accidents.
    """
    if tree.FINGERPRINT_FILE not in names:
        return [
            "The model has no fingerprint.pb, so damage to its graph may"
            " go unnoticed."
        ]
    stored = fingerprint_pb2.FingerprintDef()
    try:
        with open(os.path.join(folder, tree.FINGERPRINT_FILE), "rb") as file:
            stored.ParseFromString(file.read(1 << 16))
    except DecodeError:
        return ["fingerprint.pb is damaged, so the graph may be, too."]
    made = fingerprint_pb2.FingerprintDef()
    made.ParseFromString(fingerprinting.CreateFingerprintDef(folder))
    parts = {
        "graph": "saved_model_checksum",
        "variables' index": "checkpoint_hash",
    }
    wrong = [
        part
        for part, field in parts.items()
        if getattr(stored, field) != getattr(made, field)
    ]
    if not wrong:
        return []
    return [
        f"fingerprint.pb is of another {' and '.join(wrong)}: the model was"
        " altered after its export, or the file belongs to another model."
    ]
