"""The ranges of setup.py: bounded, and generated from for `test-lowest`."""

import importlib.metadata
import runpy
import subprocess
import sys

import pytest
import setuptools
from packaging.requirements import Requirement

from tests.support import lowest


@pytest.fixture(scope="module")
def declared():
    """What setup.py hands to setuptools, as requirements by extra."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **given: found.update(given))
        runpy.run_path(str(lowest.SETUP))
    lists = {"": found["install_requires"], **found["extras_require"]}
    return {extra: [Requirement(r) for r in lists[extra]] for extra in lists}


def test_every_requirement_is_exact_or_has_both_bounds(declared):
    for requirement in sum(declared.values(), []):
        operators = sorted(spec.operator for spec in requirement.specifier)
        assert operators in (["=="], ["<", ">="]), requirement


def test_what_is_installed_is_in_the_ranges(declared):
    for requirement in declared[""] + declared["cpu"]:
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version), requirement


def test_the_oldest_releases_are_the_lower_bounds(declared):
    done = subprocess.run(
        [sys.executable, lowest.__file__], capture_output=True, text=True
    )
    lines = [Requirement(line) for line in done.stdout.splitlines()]
    oldest = {line.name: str(line.specifier) for line in lines}
    ranges = [r for r in sum(declared.values(), []) if len(r.specifier) > 1]
    assert {requirement.name for requirement in ranges} == set(oldest)
    for requirement in ranges:
        (bound,) = (s for s in requirement.specifier if s.operator == ">=")
        assert oldest[requirement.name] == f"=={bound.version}"
        assert requirement.specifier.contains(bound.version)
