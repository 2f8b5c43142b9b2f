"""Tables of figures: means over models, by hand."""

import pytest

from ib_keras.figures import points
from ib_keras.figures import summary

COLUMNS = (*points.COLUMNS, "is_collapsed")


def row(model, x, y, seed, *, mode="mean", ends=(None, None), panel="a", **own):
    name = f"{model}_{x}_{seed}"
    collapsed = own.get("collapsed", 0)
    return (1, panel, model, mode, x, y, seed, *ends, 9, name, "s", collapsed)


def table(rows, columns=COLUMNS):
    text = summary.to_markdown(columns, [r[: len(columns)] for r in rows])
    lines = text.splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in [lines[0], *lines[2:]]
    ]


@pytest.mark.parametrize("columns", [COLUMNS, points.COLUMNS])
def test_a_line_is_a_model_and_x_and_a_column_a_panel_and_mode(columns):
    rows = [
        row("vib", 0.1, 0.5, 0),
        row("vib", 0.1, 0.6, 1),
        row("vib", 0.1, 0.25, 0, mode="stochastic"),
        row("vib", 0.01, 0.75, 0, ends=(0.7, 0.8)),
        row("deterministic", None, 0.125, 0),
        row("deterministic", None, 1.0, 0, panel="b", ends=(0.9, 1.0)),
    ]
    assert table(rows, columns) == [
        ["model", "x", "a, mean", "a, stochastic", "b, mean", "models"],
        ["vib", "0.01", "75.0 [70.0, 80.0]", "", "", "1"],
        ["vib", "0.1", "55.0 (50.0 to 60.0)", "25.0", "", "2"],
        ["deterministic", "", "12.5", "", "100.0 [90.0, 100.0]", "1"],
    ]


def test_collapsed_models_are_left_out_and_counted():
    rows = [
        row("vib", 1.0, 0.5, 0, collapsed=1),
        row("vib", 1.0, 0.9, 1),
        row("vib", 2.0, 0.5, 0, collapsed=1),
    ]
    assert table(rows)[1:] == [
        ["vib", "1", "90.0", "1 of 2"],
        ["vib", "2", "", "0 of 1"],
    ]


def test_of_a_long_curve_some_restarts_are_enough():
    rows = [row("vib", x, 1 / x, 0) for x in range(1, 101)]
    assert [line[1] for line in table(rows)[1:]] == [
        *("1", "2", "5", "10", "20", "50", "100")
    ]


def test_panels_over_restarts_have_a_table_of_their_own():
    rows = [
        row("ceb", 3.0, 0.5, 0),
        row("ceb", 4.0, 0.25, 0),
        row("deterministic", None, 0.125, 0),
        *(row("ceb", x, 0.5 / x, 0, panel="b") for x in range(1, 101)),
        row("ceb", 3.0, 0.0, 0, panel="c"),
    ]
    first, second = summary.to_markdown(COLUMNS, rows).split("\n\n")
    assert first.splitlines()[2:] == [
        "| ceb | 3 | 50.0 | 0.0 | 1 |",
        "| ceb | 4 | 25.0 |  | 1 |",
        "| deterministic |  | 12.5 |  | 1 |",
    ]
    assert second.splitlines()[0] == "| model | x | b, mean | models |"
    assert second.splitlines()[2] == "| ceb | 1 | 50.0 | 1 |"
    assert len(second.splitlines()) == 2 + len(summary._RESTARTS)


def test_a_figure_of_one_panel_has_columns_of_modes():
    assert table([row("vib", 0.01, 0.5, 0, panel=None)])[0][2:] == [
        *("mean", "models")
    ]


def test_a_figure_of_something_else_has_no_table():
    assert summary.to_markdown(("figure", "u", "v"), [(4, 0, 0)]) is None
