"""Tables of figures: means over models, by hand."""

from ib_keras.figures import points
from ib_keras.figures import summary


def row(model, x, y, seed, low=None, high=None, panel="a"):
    count = None if low is None else 1000
    return (1, panel, model, "mean", x, y, seed, low, high, count, "r", "s")


def table(rows):
    text = summary.to_markdown(points.COLUMNS, rows)
    lines = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def test_a_line_is_a_group_of_seeds_in_the_order_of_the_rows():
    assert table(
        [
            row("vib", 0.01, 0.5, 0, 0.45, 0.55),
            row("vib", 0.01, 0.6, 1, 0.57, 0.63),
            row("deterministic", None, 0.125, 0),
        ]
    ) == [
        "a|vib|mean|0.01|2|55.0%|50.0%|60.0%|45.0% to 63.0%|1,000".split("|"),
        "a|deterministic|mean||1|12.5%|12.5%|12.5%||".split("|"),
    ]


def test_of_a_long_curve_some_restarts_are_enough():
    rows = [row("vib", x, 1 / x, 0) for x in range(1, 101)]
    assert [line[3] for line in table(rows)] == [
        *("1", "2", "5", "10", "20", "50", "100")
    ]


def test_a_figure_without_panels_keeps_its_lines():
    assert table([row("vib", 0.01, 0.5, 0, panel=None)])[0][:2] == ["", "vib"]


def test_a_figure_of_something_else_has_no_table():
    assert summary.to_markdown(("figure", "u", "v"), [(4, 0, 0)]) is None
