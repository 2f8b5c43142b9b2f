"""Images as PNG data URIs, at native pixels: the page scales them in CSS."""

import base64
import dataclasses
import io

import markupsafe
import numpy as np
import PIL.Image

# Pictures larger than this are reduced, so that a page stays small.
MAX_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of the page: its PNG, its size and its words."""

    uri: markupsafe.Markup
    width: int
    height: int
    caption: str
    alternative: str


def picture(image: np.ndarray, caption: str, alternative: str) -> Picture:
    """Encodes an image.

    Args:
        image: Float array `[height, width, channels]` in [0, 1]; one channel
            is grey, three are red, green and blue, and of any other number
            the mean is shown in grey.
        caption: A word or two under it.
        alternative: The alternative text, for screen readers.

    Returns:
        The picture.
    """
    image = reduce(image)
    if image.shape[-1] != 3:
        image = image.mean(axis=-1)
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(
        uri=markupsafe.Markup(f"data:image/png;base64,{data}"),
        width=pixels.shape[1],
        height=pixels.shape[0],
        caption=caption,
        alternative=alternative,
    )


def reduce(image: np.ndarray) -> np.ndarray:
    """Averages blocks of pixels until both sides are `MAX_SIDE` or less."""
    height, width, channels = image.shape
    block = -(-max(height, width) // MAX_SIDE)
    if block == 1:
        return image
    rows, columns = max(height // block, 1), max(width // block, 1)
    image = image[: rows * block, : columns * block]
    blocks = image.reshape(
        rows, min(block, height), columns, min(block, width), channels
    )
    return blocks.mean(axis=(1, 3))


def difference(
    clean: np.ndarray, adversarial: np.ndarray, norm: str, epsilon: float
) -> tuple[np.ndarray, float]:
    """What the attack added, amplified around mid grey.

    For linf the gain makes `epsilon` full white or black, so it is the same
    for all examples; for l2 the largest change of this example does.

    Args:
        clean: Float array `[height, width, channels]`.
        adversarial: Float array of the same shape.
        norm: "linf" or "l2".
        epsilon: The radius.

    Returns:
        The image, in [0, 1], and the gain (0 where nothing was changed).
    """
    change = adversarial.astype(np.float64) - clean
    largest = np.abs(change).max(initial=0.0)
    if largest == 0:
        return np.full(change.shape, 0.5), 0.0
    gain = 0.5 / (epsilon if norm == "linf" and epsilon > 0 else largest)
    return np.clip(0.5 + gain * change, 0, 1), float(gain)
