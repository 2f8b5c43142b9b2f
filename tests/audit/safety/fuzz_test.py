"""Bytes and names that no program wrote: each ends in a sentence or is read.

The seeds are fixed, so that a failure is found again.
"""

import atexit
import functools
import json
import pathlib
import shutil
import string
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ib_keras import metadata
from ib_keras.audit import safety
from ib_keras.audit.safety import bundle
from ib_keras.audit.safety import wire
from ib_keras.errors import UserError
from ib_keras.errors import printable
from tests.support import bombs
from tests.support import hostile

tried = hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None
)
_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none()
)
_JSON = st.recursive(
    st.one_of(_NUMBERS, st.text()),
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.dictionaries(st.text(max_size=8), inside, max_size=4),
    ),
    max_leaves=12,
)


@tried
@hypothesis.given(st.binary(max_size=400))
def test_any_bytes_are_no_index(data):
    with pytest.raises(bundle.NotAnIndex):
        bundle.parse(data)


@tried
@hypothesis.given(
    st.dictionaries(
        st.text(string.ascii_letters, min_size=1),
        st.lists(st.integers(0, 5), max_size=3),
        max_size=30,
    )
)
def test_an_index_is_read_as_it_was_written(shapes):
    entries = {
        name: bombs.entry(1, shape, 0, 4 * int(np.prod(shape)))
        for name, shape in shapes.items()
    }
    assert bundle.parse(bombs.index(entries)).tensors == entries


@tried
@hypothesis.given(st.binary(max_size=200), st.integers(0, 50))
def test_counting_fields_ends(data, most):
    count = wire.count(data, bombs.entry(1, [], 0, 0).DESCRIPTOR, most)
    assert 0 <= count <= max(len(data), most + 1)


@tried
@hypothesis.given(st.data())
def test_a_damaged_graph_ends_in_a_sentence(data):
    path = _honest()
    file = pathlib.Path(path, "saved_model.pb")
    whole = file.read_bytes()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(whole) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    try:
        file.write_bytes(changed)
        safety.check(path, probe=False)
    except UserError as error:
        assert str(error).isprintable()
    finally:
        file.write_bytes(whole)


@tried
@hypothesis.given(_JSON)
def test_any_metadata_are_read_or_refused(value):
    path = _honest()
    asset = pathlib.Path(metadata.path(path))
    asset.parent.mkdir(exist_ok=True)
    try:
        asset.write_text(json.dumps(value))
        found = metadata.read(path)
    except UserError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(found, dict)
    finally:
        asset.unlink()


@tried
@hypothesis.given(st.text())
def test_no_text_acts_on_a_terminal(text):
    shown = printable(text)
    assert not set(shown) & set(map(chr, range(32))) - set("\n\r\t")
    assert printable(shown) == shown


@functools.cache
def _honest() -> str:
    """A model for all examples of a test, which each leaves as it was."""
    folder = tempfile.mkdtemp(prefix="ib_keras_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return hostile.honest(f"{folder}/model")
