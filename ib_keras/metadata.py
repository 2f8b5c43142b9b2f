"""The metadata of an exported SavedModel: a JSON asset, read as a file."""

from typing import Any

from ib_keras import files
from ib_keras.errors import UserError

FORMAT_VERSION = 1
FILE = "ib_keras.json"


def path(saved_model: str) -> str:
    """The path of the asset in the folder of a SavedModel."""
    return files.join(saved_model, "assets", FILE)


def read(saved_model: str) -> dict[str, Any] | None:
    """Reads the JSON asset of a SavedModel folder without loading the model.

    Args:
        saved_model: The SavedModel folder.

    Returns:
        The metadata; None where the folder has none, because other code
        exported the model.

    Raises:
        UserError: If the asset is damaged or of a newer format.
    """
    file = path(saved_model)
    if not files.exists(file):
        return None
    metadata = files.read_json(file)
    if not isinstance(metadata, dict):
        metadata = {}
    version = metadata.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            "The SavedModel's metadata are of an unknown format",
            received=f"format version {version} in {file}",
            expected=f"{FORMAT_VERSION} or earlier",
            fix="Update ib_keras to the version that exported the model.",
        )
    return metadata
