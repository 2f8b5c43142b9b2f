"""What the documents on results say is what results/ holds, drawn again."""

import pathlib
import re

import pytest
from matplotlib import figure

from ib_keras import figures
from ib_keras.figures import reading

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
TEXT = "\n".join(
    (ROOT / "docs" / name).read_text()
    for name in ("reproduction.md", "study.md")
)
TABLES = sorted(RESULTS.glob("*/figures/*.md"))
PICTURES = sorted(RESULTS.glob("*/figures/*.png"))
# As the documents say: the figures of a folder of results/.
DRAWN = [
    (int(number), folder)
    for numbers, folder in re.findall(
        r"--figure=([\d,]+) --runs=results/(\S+)", TEXT.replace("\\", "")
    )
    for number in numbers.split(",")
]


def relative(path: pathlib.Path) -> str:
    """The test's name: which file it is of."""
    return str(path.relative_to(RESULTS))


@pytest.mark.parametrize("path", TABLES, ids=relative)
def test_the_document_has_the_table_of_each_figure(path):
    assert path.read_text() in TEXT


@pytest.mark.parametrize("path", PICTURES, ids=relative)
def test_the_document_shows_each_picture(path):
    assert f"](../{path.relative_to(ROOT)})" in TEXT


def test_every_picture_and_file_that_it_names_is_there():
    names = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert names
    missing = [n for n in names if not (ROOT / "docs" / n).exists()]
    assert missing == []


def test_the_document_says_how_each_picture_is_drawn():
    shown = {
        (int(p.stem.split("_")[1]), p.parent.parent.name) for p in PICTURES
    }
    assert set(DRAWN) == shown


@pytest.mark.parametrize(("number", "folder"), sorted(set(DRAWN)))
def test_the_committed_records_give_the_committed_numbers(
    number, folder, tmp_path, monkeypatch
):
    # Only the numbers are compared, and drawing takes most of the time.
    monkeypatch.setattr(figure.Figure, "savefig", lambda *args, **more: None)
    figures.write(number, [reading.load(str(RESULTS / folder))], str(tmp_path))
    kept = RESULTS / folder / "figures"

    def numbers(place):
        found = (place / f"figure_{number}{end}" for end in (".csv", ".md"))
        return {p.name: p.read_text() for p in found if p.exists()}

    assert numbers(kept)
    assert numbers(tmp_path) == numbers(kept)
