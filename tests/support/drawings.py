"""What a figure has on it, for tests."""

import csv
import io

from matplotlib.text import Text

from ib_keras.figures import points
from ib_keras.figures.drawing import Drawing


def rows(drawn: Drawing) -> list[dict[str, str]]:
    """What the CSV of a drawing says, as dicts of texts."""
    text = points.to_csv(drawn.columns, drawn.rows)
    return list(csv.DictReader(io.StringIO(text)))


def texts(drawn: Drawing) -> str:
    """All words of a figure."""
    found = drawn.figure.findobj(Text)
    return "\n".join(text.get_text() for text in found)


def caption(drawn: Drawing) -> str:
    """The lines under a figure."""
    return drawn.figure.texts[0].get_text().replace("\n", " ")
