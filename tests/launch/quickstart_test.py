"""launch.quickstart: what it runs is what the commands it prints would run."""

import json
import shlex
import subprocess
import sys

import pytest

from launch import quickstart
from tests.support import runs

# Parses words by a command's own flags; prints its config and its folders.
PARSE = """
import importlib, json, sys
from launch import flags
importlib.import_module(sys.argv[1])
sys.argv = sys.argv[1:]
assert flags._parse(sys.argv) == sys.argv[:1]
names = ("workdir", "saved_model", "output")
found = {n: flags.FLAGS[n].value for n in names if n in flags.FLAGS}
if "config" in flags.FLAGS:
    found["config"] = flags.config_values()
print(json.dumps(found))
"""
AUDIT = {
    "mode": "stochastic",
    "num_examples": 300,
    "threat_model.epsilon": 0.1,
    "diagnostics.set": "quick",
}


def parse(line):
    """What a printed command's own flags make of it."""
    python, dash, module, *words = shlex.split(line)
    assert (python, dash) == ("python", "-m")
    done = subprocess.run(
        [sys.executable, "-c", PARSE, module, *words],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "name", "changes", "folders"),
    [
        ("train", "digits_vib", {}, {"workdir": "a b/run"}),
        *(
            (
                "audit",
                f"audits.{protocol}",
                AUDIT,
                {"saved_model": "a b/run/saved_model", "workdir": "a b/audit"},
            )
            for protocol in ("fgs_epsilons", "pgd_restarts")
        ),
    ],
)
def test_a_printed_command_means_what_is_run(
    capsys, module, name, changes, folders
):
    line = quickstart._command(module, name, changes, **folders)
    assert capsys.readouterr().out == f"\n$ {line}\n"
    found = parse(line)
    assert found.pop("config") == quickstart._config(name, **changes)
    assert found == folders
