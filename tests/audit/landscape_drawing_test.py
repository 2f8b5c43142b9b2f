"""Landscapes on the page and as files: true, small, and safe to show."""

import io
import re

import numpy as np
import PIL.Image
import pytest

from ib_keras import files
from ib_keras.audit import landscape
from ib_keras.audit import report
from ib_keras.audit.landscape import drawing
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.audit.landscape import relief
from tests.support import audit_folder
from tests.support import runs

MOST_BYTES = 60_000


def hill(grid=41, span=1.25, height=4.0, at=0.8, **changes):
    """A hill of loss towards the attack, and a diamond."""
    axis = np.linspace(-span, span, grid).astype(np.float32)
    a, b = np.meshgrid(axis, axis)
    margin = height * np.exp(-((a - 1) ** 2 + b**2)) - height / 2
    distance = np.abs(a) + np.abs(b)
    values = dict(
        first_axis=axis,
        second_axis=axis,
        cross_entropy=np.logaddexp(0, margin).astype(np.float32),
        margin=margin.astype(np.float32),
        gradient_norm=np.where(a < 0, 0, 1).astype(np.float32),
        margin_gradient_norm=np.ones_like(a),
        distance=distance.astype(np.float32),
        in_ball=distance < 1.001,
        attack_at=at,
        attack_cross_entropy=1.5,
        attack_margin=1.25,
    )
    return landscape.Landscape(**(values | changes))


def write(folder, found, rows=None):
    rows = list(range(len(found))) if rows is None else rows
    arrays = landscape_examples.to_arrays(rows, found)
    files.write_npz(files.join(folder, landscape_examples.FILE), arrays)
    return arrays


def page_of(folder, tmp_path):
    path = report.write([folder], str(tmp_path / "page.html"))
    return files.read_text(path)


@pytest.fixture
def folder(tmp_path):
    folder = str(tmp_path / "audit")
    audit_folder.write(folder)
    return folder


def test_the_page_shows_the_landscapes_with_their_numbers(folder, tmp_path):
    before = page_of(folder, tmp_path)
    assert "Loss landscapes" not in before
    write(folder, [hill()] * 6, rows=[7, 3, 5, 1, 2, 4])
    page = page_of(folder, tmp_path)
    assert page.count('class="chart landscape"') == drawing.MAX_SHOWN
    shown = re.findall(r"<strong>Example (\d+), label", page)
    assert shown == ["7", "3", "5", "1"]
    numbers = landscape.describe(hill())
    assert f"{100 * numbers.wrong_share:.1f}% of the ball" in page
    assert f"{100 * numbers.flat_share:.1f}% by cross-entropy" in page
    assert "attack 1.5" in page and "attack +1.25" in page
    assert len(page) - len(before) < drawing.MAX_SHOWN * MOST_BYTES
    assert page == page_of(folder, tmp_path)


def test_nothing_is_loaded_and_ids_are_unique(folder, tmp_path):
    write(folder, [hill(), hill()])
    page = page_of(folder, tmp_path)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert any(link.startswith("data:image/png") for link in links)
    assert all(re.match("data:|#|https://", link) for link in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attack_at": 0.0},
        {"margin": np.full((41, 41), -3, np.float32)},
        {
            "margin": np.zeros((41, 41), np.float32),
            "cross_entropy": np.zeros((41, 41), np.float32),
        },
        {
            "margin": np.full((41, 41), np.nan, np.float32),
            "cross_entropy": np.full((41, 41), np.nan, np.float32),
            "attack_margin": np.nan,
        },
        {
            "gradient_norm": np.full((41, 41), -1, np.float32),
            "margin_gradient_norm": np.full((41, 41), -1, np.float32),
        },
    ],
    ids=["hill", "still", "constant", "zero", "not_finite", "no_gradient"],
)
def test_every_kind_of_landscape_is_drawn(changes):
    found = hill(**changes)
    drawn = drawing.inline(found, "one")
    assert len(drawn) < MOST_BYTES
    assert drawn.startswith("<svg") and 'role="img"' in drawn
    assert "var(--muted)" in drawn and "#00aa0" not in drawn
    for axis in ("towards the attack&#39;s image, ε", "random direction, ε"):
        assert axis in drawn or axis.replace("&#39;", "'") in drawn
    assert all(value for _, value in drawing.facts(found))
    drawing.surface(found)


def test_the_ball_and_the_boundary_are_where_they_are():
    found = hill(grid=81)
    (ball,) = relief.lines(found, found.distance, 1.0)
    np.testing.assert_allclose(np.abs(ball).sum(1), 1.0, atol=1e-5)
    (boundary,) = relief.lines(found, found.margin, 0.0)
    radius = np.hypot(boundary[:, 0] - 1, boundary[:, 1])
    np.testing.assert_allclose(radius, np.sqrt(np.log(2)), atol=2e-3)


def test_heights_between_the_points_are_linear():
    found = hill(grid=11)
    a, b = np.meshgrid(found.first_axis, found.second_axis)
    points = np.array([[0.31, -0.77], [-1.25, 1.25], [1.25, 0.0]])
    height = relief._heights(
        found.first_axis, found.second_axis, 2 * a - 3 * b + 1, *points.T
    )
    np.testing.assert_allclose(
        height, 2 * points[:, 0] - 3 * points[:, 1] + 1, atol=1e-5
    )


def test_pictures_are_whole_files_of_both_kinds():
    found = drawing.pictures(hill(grid=11))
    assert sorted(found) == [".png", ".svg", "_surface.png", "_surface.svg"]
    for ending, content in found.items():
        if ending.endswith("png"):
            image = PIL.Image.open(io.BytesIO(content))
            pixels = np.asarray(image.convert("RGB"))
            assert (pixels[0, 0] == 255).all() and pixels.std() > 10
        else:
            assert b"var(" not in content and b"</svg>" in content


def test_a_table_has_every_point():
    found = hill(grid=5)
    heading, *lines = landscape_examples.to_csv(found).splitlines()
    names = heading.split(",")
    assert names[:4] == ["first", "second", "cross_entropy", "margin"]
    table = np.array([line.split(",") for line in lines], float)
    assert table.shape == (25, 8)
    np.testing.assert_allclose(
        table[7, :4],
        [
            found.first_axis[2],
            found.second_axis[1],
            found.cross_entropy[1, 2],
            found.margin[1, 2],
        ],
        rtol=1e-6,
    )


def test_the_file_gives_back_what_was_put_in():
    found = [hill(), hill(height=2.0, at=0.0)]
    arrays = landscape_examples.to_arrays([4, 2], found)
    rows, read = zip(
        *landscape_examples.from_arrays(arrays, "f", 5), strict=True
    )
    assert rows == (4, 2)
    for before, after in zip(found, read, strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(np.float32(one), np.float32(other))


DAMAGE = {
    "missing": lambda arrays: arrays.pop("margin"),
    "rows": lambda arrays: arrays.update(row=np.array([0, 99])),
    "shape": lambda arrays: arrays.update(margin=arrays["margin"][:, 1:]),
    "kind": lambda arrays: arrays.update(in_ball=arrays["margin"]),
    "axis": lambda arrays: arrays.update(
        first_axis=arrays["first_axis"][:, ::-1]
    ),
    "number": lambda arrays: arrays["attack_at"].fill(np.nan),
    "scalar": lambda arrays: arrays.update(first_axis=np.float32(1)),
    "empty": lambda arrays: arrays.update(row=np.array([[0]])),
    "ball": lambda arrays: arrays["in_ball"].fill(False),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(damage, folder, tmp_path):
    arrays = write(folder, [hill(grid=5), hill(grid=5)])
    DAMAGE[damage](arrays)
    files.write_npz(files.join(folder, landscape_examples.FILE), arrays)
    error = runs.refused(page_of, folder, tmp_path)
    assert "landscapes.npz" in str(error)


def test_drawings_hold_no_foreign_markup(tmp_path):
    folder = str(tmp_path / "audit")
    audit_folder.write(folder, class_names=["<script>alert(1)</script>"] * 10)
    write(folder, [hill(grid=5)])
    page = page_of(folder, tmp_path)
    assert "<script" not in page
