"""The parts of the time to the first step, in one line."""

import re

import pytest

from ib_keras.training import startup
from tests.support import fast_runs
from tests.support import runs


def test_the_parts_of_a_start_are_printed(tmp_path, capsys, monkeypatch):
    fast_runs.install(monkeypatch)
    config = runs.smoke_config("vib", **fast_runs.UNEVEN)
    before = {"import": 3.0, "devices": 0.25}
    runs.loop.train(config, str(tmp_path), startup=before)
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("First call done")
    ]
    (line,) = lines
    total, parts = re.fullmatch(
        r"First call done after ([\d.]+) s: (.*)\.", line
    ).groups()
    seconds = dict(part.rsplit(" ", 1) for part in parts.split(", "))
    assert list(seconds) == [
        "import",
        "devices",
        "data",
        "model",
        "trace",
        "compile and 2 steps",
    ]
    assert seconds["import"] == "3.0"
    assert float(total) == pytest.approx(
        sum(map(float, seconds.values())), abs=0.4
    )


def test_a_part_is_measured_by_the_clock_of_the_process(monkeypatch):
    now = iter([10.0, 12.5])
    monkeypatch.setattr(startup.time, "monotonic", lambda: next(now))
    parts = startup.Startup({"import": 1.0})
    with parts.part("trace"):
        pass
    assert parts.line() == "First call done after 3.5 s: import 1.0, trace 2.5."
