"""What docs/reproduction.md says is what results/ holds, drawn again."""

import pathlib
import re

import pytest

from ib_keras import figures
from ib_keras.figures import reading

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIGURES = ROOT / "results" / "figures"
TEXT = (ROOT / "docs" / "reproduction.md").read_text()
TABLES = sorted(FIGURES.glob("*.md"))
# As the document says: figure -> folder of results/.
COMMANDS = dict(
    re.findall(
        r"--figure=([\d,]+) --runs=results/(\S+)", TEXT.replace("\\", "")
    )
)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_document_has_the_table_of_each_figure(path):
    assert path.read_text() in TEXT


def test_every_picture_and_file_that_it_names_is_there():
    names = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert names
    missing = [n for n in names if not (ROOT / "docs" / n).exists()]
    assert missing == []


@pytest.mark.parametrize(("numbers", "folder"), sorted(COMMANDS.items()))
def test_the_committed_records_give_the_committed_numbers(
    numbers, folder, tmp_path
):
    sweep = reading.load(str(ROOT / "results" / folder))
    for number in map(int, numbers.split(",")):
        figures.write(number, [sweep], str(tmp_path))
        for ending in (".csv", ".md"):
            made = tmp_path / f"figure_{number}{ending}"
            if made.exists():
                kept = FIGURES / made.name
                assert made.read_text() == kept.read_text()
