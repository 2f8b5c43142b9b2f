"""Tests for imports that wait until they are needed."""

import subprocess
import sys
import textwrap

CODE = """
    import gc
    import sys

    from ib_keras import lazy

    assert gc.isenabled()
    tf = lazy.tensorflow()
    assert gc.isenabled(), "garbage collection stayed off"
    assert gc.get_freeze_count() > 100_000
    assert not any(name.startswith("keras.src") for name in sys.modules)
    assert lazy.tensorflow() is tf
    print(tf.keras.layers.Dense.__name__)
"""


def test_tensorflow_comes_without_keras_and_keras_when_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Dense"
