"""`launch.show`, as it is typed: one example in words and as a picture."""

import functools
import re
import shutil

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from ib_keras import files
from ib_keras.audit import one_example
from ib_keras.audit import runner
from tests.support import runs

pytestmark = pytest.mark.commands


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """The folder of a small audit; read only."""
    folder = str(tmp_path_factory.mktemp("show") / "audit")
    config = runs.audit_config("fgs_epsilons", num_examples=30)
    runner.audit(config, runs.digits_model("vib"), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def arrays(audit):
    with np.load(f"{audit}/examples.npz") as found:
        return dict(found)


command = functools.partial(runs.command, "launch.show")


def test_a_broken_example_is_told_and_drawn(audit, arrays, tmp_path):
    row = np.flatnonzero(arrays["broken_by_stage"] >= 0)[0]
    index, path = arrays["index"][row], tmp_path / "one.png"
    status, said, _ = command(
        f"--workdir={audit}", f"--index={index}", f"--output={path}"
    )
    assert status == 0
    first, broken, margin, distance, last = said.splitlines()
    assert f"label {arrays['label'][row]}, clean prediction" in first
    assert "Broken by fgs, restart 1, step 1" in broken
    assert f"predicted {arrays['adversarial_prediction'][row]}" in broken
    assert f"Margin {arrays['margin'][row]:.4g} " in margin
    assert distance.startswith("Distance linf 0.1, l2 ")
    assert last == f"Picture: {path}"
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] > 2.5 * picture.shape[0]  # Three panels.
    assert np.unique(picture).size > 10


def panels(found, tmp_path) -> list[str]:
    """The titles over the pictures, from an SVG of the same figure."""
    path = str(tmp_path / "picture.svg")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        found.write_picture(path)
    titles = re.findall(r"<text[^>]*>([^<]*)</text>", files.read_text(path))
    return [title.partition(",")[0] for title in titles]


def test_show_explains_an_outcome_that_looks_odd(audit, arrays, tmp_path):
    folder = str(tmp_path / "noisy")
    shutil.copytree(audit, folder)
    robust = arrays["is_robust"]
    files.write_npz(
        f"{folder}/examples.npz",
        arrays
        | {
            "margin": np.where(robust, 0.5, arrays["margin"]),
            "wrong_share": np.where(robust, 0.48, arrays["wrong_share"]),
        },
    )
    summary = files.read_json(f"{folder}/summary.json")
    summary |= {"mode": "stochastic", "num_judge_samples": 5}
    files.write_sealed_json(f"{folder}/summary.json", summary)
    index = arrays["index"][np.flatnonzero(robust)[0]]
    said = "\n".join(one_example.OneExample(folder, index).lines())
    assert "Wrong in 48% of fresh draws." in said
    assert "Robust although its margin is above 0" in said
    assert "fresh" not in "\n".join(
        one_example.OneExample(audit, index).lines()
    )


def test_what_was_not_broken_says_why(audit, arrays, tmp_path):
    robust_row = np.flatnonzero(arrays["is_robust"])[0]
    found = one_example.OneExample(audit, arrays["index"][robust_row])
    assert "Robust: no stage broke it" in "\n".join(found.lines())
    assert panels(found, tmp_path) == ["clean", "nearest miss", "difference"]
    row = np.array(arrays["clean_prediction"])
    wrong = np.flatnonzero(row != arrays["label"])
    for each in wrong[:1]:
        found = one_example.OneExample(audit, arrays["index"][each])
        assert "not attacked" in "\n".join(found.lines())


def test_an_example_that_is_not_there_is_one_line(audit):
    before = runs.snapshot(audit)
    status, said, errors = command(f"--workdir={audit}", "--index=999")
    assert (status, said) == (2, "")
    assert "no such example" in errors and "from 0 to 29" in errors
    status, _, errors = command(f"--workdir={audit}x", "--index=0")
    assert status == 2 and "summary.json" in errors
    assert runs.snapshot(audit) == before
