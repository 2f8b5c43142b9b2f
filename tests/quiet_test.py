"""The console: nothing that a user cannot act on, and all that one can."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import runs

pytestmark = pytest.mark.commands

NAMES = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")


def python(source, **environment):
    """Runs Python as a user has it, with neither variable set."""
    kept = {k: v for k, v in os.environ.items() if k not in NAMES}
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=runs.ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def test_the_library_is_silent_and_passes_real_warnings_on():
    done = python(
        "from ib_keras import attacks\n"
        "import logging, tensorflow as tf, warnings\n"
        "tf.config.list_logical_devices()\n"
        "f = tf.function(lambda x: 2 * x)\n"
        "for i in range(9): f(i)\n"
        "print(attacks.run.__name__, flush=True)\n"
        "tf.get_logger().warning('a real one')\n"
        "warnings.warn('another')\n"
    )
    assert done.stdout == "run\n"
    first, second = done.stderr.strip().splitlines()
    assert first.endswith("a real one") and second.endswith("another")


def test_bounds_are_silent_and_what_else_is_said_is_heard():
    """TensorFlow logs when it puts the bodies of calls in place."""
    done = python(
        "import os, ib_keras\n"
        "from ib_keras import certify\n"
        "def logits(images, seed):\n"
        "    os.write(2, b'traced\\n')\n"
        "    return images[:, 0, :, 0]\n"
        "certify.Certifier(logits, (2, 2, 1), 'ibp')\n"
        "from ib_keras import frozen\n"
        "with frozen._quiet():\n"
        "    os.write(2, b'E0000 00:00:17.5 1 devices.cc:67] heard\\n')\n"
        "    os.write(2, b'I0000 00:00:17.5 1 devices.cc:67] not\\n')\n"
    )
    assert done.stdout == ""
    first, second = done.stderr.strip().splitlines()
    assert first == "traced" and second.endswith("heard")


@pytest.mark.slow
def test_a_notebook_shows_no_temporary_folder(tmp_path):
    """TensorFlow logs at INFO there: what users save, but not our way to it."""
    done = python(
        "import ib_keras, tensorflow as tf\n"
        "from ib_keras import files\n"
        "tf.get_logger().setLevel('INFO')\n"
        "save = lambda path: tf.saved_model.save(tf.Module(), path)\n"
        f"files.write_folder({str(tmp_path / 'ours')!r}, save)\n"
        f"save({str(tmp_path / 'theirs')!r})\n"
    )
    lines = {line.rpartition("/")[0] for line in done.stderr.splitlines()}
    assert len(lines) == 1 and lines.pop().endswith("theirs")


@pytest.mark.parametrize(
    "before, environment, expected",
    [
        ("", {}, ["3", "1"]),
        ("", {NAMES[0]: "1", NAMES[1]: "0"}, ["1", "0"]),
        # It has read them: what is set now would be untrue.
        ("sys.modules['tensorflow'] = sys; ", {}, [None, None]),
    ],
)
def test_the_environment_of_the_user_is_kept(before, environment, expected):
    done = python(
        f"import json, os, sys; {before}import ib_keras; "
        f"print(json.dumps([os.environ.get(n) for n in {NAMES}]))",
        **environment,
    )
    assert json.loads(done.stdout) == expected
