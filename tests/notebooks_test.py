"""The notebooks of the manual run, and show what they have saved."""

import json
import pathlib
import re

import pytest

from tests.support import marks
from tests.support import runs

pytestmark = pytest.mark.commands

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS]
)


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def said(cells):
    """What cells print and show as text, with # in place of numbers."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    texts = ["".join(o.get("text") or o["data"]["text/plain"]) for o in outputs]
    return re.sub(r"\d[\d.]*(?:e-\d+)?", "#", "\n".join(texts))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 2


@every_notebook
def test_the_saved_outputs_are_whole_small_and_quiet(path):
    assert path.stat().st_size < 50_000
    cells = code_cells(path)
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"  # Warnings and log lines.


@pytest.mark.parametrize(
    "path",
    marks.others_slow(
        NOTEBOOKS, ("audit_a_foreign_model",), lambda path: path.stem
    ),
)
def test_the_code_runs(path, tmp_path):
    """In one process and without Jupyter, which is quicker."""
    code = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    process = runs.Process(code=code, cwd=tmp_path)
    assert process.wait() == 0, process.read("errors")


@pytest.mark.slow
@every_notebook
def test_jupyter_shows_what_is_saved(path, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    saved = said(code_cells(path))
    assert len(saved) > 100
    nbclient.NotebookClient(
        notebook,
        timeout=1200,  # Seconds a cell; a busy machine may need minutes.
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert said(cells) == saved
