"""Overrides as people type them become what absl reads; all else stays."""

import ml_collections
import pytest
from ml_collections import config_dict

from launch import overrides


def config():
    return ml_collections.ConfigDict(
        {
            "epsilon": 0.1,
            "count": 10,
            "name": "vib",
            "radii": (0.1,),
            "samples": config_dict.placeholder(int),
            "inner": {"rate": 1.0, "path": config_dict.placeholder(str)},
        }
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--config.epsilon=8/255"], ["--config.epsilon=0.03137254901960784"]),
        (["--config.inner.rate=1/4"], ["--config.inner.rate=0.25"]),
        (["--config.count=1e3"], ["--config.count=1000"]),
        (["--config.count=2.0"], ["--config.count=2"]),
        (["--config.count", "1e3"], ["--config.count=1000"]),
        (["--config.samples=12.0"], ["--config.samples=12"]),
        (
            ["--config.radii=8/255,0.1"],
            ["--config.radii=0.03137254901960784,0.1"],
        ),
        (["--config.samples=None"], []),
        (["--config.inner.path=None"], []),
    ],
)
def test_what_is_meant_is_understood(typed, meant):
    assert overrides.normalise(typed, config()) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "--config.count=2.5",
        "--config.count=many",
        "--config.epsilon=1/0",
        "--config.name=a/b",
        "--config.name=None",
        "--config.inner.path=8/255",
        "--config.nothing=1e3",
        "--config.name.inner=1e3",
        "--config=configs/audits/aa_mt.py",
        "--workdir=8/255",
        "--config.epsilon",
        "a word",
    ],
)
def test_all_else_stays(typed):
    assert overrides.normalise([typed], config()) == [typed]
