"""Inputs that nobody would write: each is refused in a sentence or answered.

The seeds are fixed, so that a failure is found again. `make test-slow` tries
more of each.
"""

import copy
import math

import hypothesis
import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from configs import mnist_vib
from configs.audits import aa_mt
from ib_keras import attacks
from ib_keras.audit import settings as audit_settings
from ib_keras.errors import UserError
from ib_keras.training import settings as training_settings
from launch import overrides

WEIGHTS = np.array([[0.7, -1.1, 0.4], [-0.9, 0.2, 1.3]], np.float32)
SHIFT = np.float32(-0.3)
SHAPE = (2, 3, 1)


def tried(count):
    """How often a test draws, always the same."""
    return hypothesis.settings(
        max_examples=count, deadline=None, derandomize=True, database=None
    )


def counts(quick, slow):
    """A test with few draws, and a slow one with many."""
    return pytest.mark.parametrize(
        "count", [quick, pytest.param(slow, marks=pytest.mark.slow)]
    )


def or_refused(function, *arguments, **more):
    """What it returns; None if it refuses, which takes one clear line."""
    try:
        return function(*arguments, **more)
    except UserError as error:
        text = str(error)
        assert "\n" not in text
        for part in ("Received: ", "Expected: ", "Fix: "):
            assert text.count(part) == 1, text
        return None


# Arrays given to the library.

_PIXELS = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 1.0, 0.5, -1e-9, 1.0 + 1e-6, 2.0, -1.0, 255.0]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
_GOOD = st.floats(0, 1, width=32)
# Those of floating point in NumPy first.
_KINDS = [np.float32, np.float64, np.float16, tf.bfloat16.as_numpy_dtype]
_KINDS += [np.uint8, np.int64, bool, object, complex, str]


@st.composite
def _arrays(draw):
    """Images, labels and arguments; about half of all are usual ones."""
    count = draw(st.sampled_from([1, 3, 0, 2]))
    is_usual = draw(st.booleans())
    size = count * 6
    pixels = draw(
        st.lists(_GOOD if is_usual else _PIXELS, min_size=size, max_size=size)
    )
    images = np.array(pixels, np.float64).reshape(count, *SHAPE)
    labels = np.array(
        draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)),
        np.int64,
    )
    kind = draw(st.sampled_from(_KINDS[:3] if is_usual else _KINDS))
    with np.errstate(invalid="ignore", over="ignore"):
        images = images.astype(kind)
    if not is_usual:
        images = draw(
            st.sampled_from(
                [images, images[..., 0], images[None], images.reshape(-1)]
                + [np.concatenate([images] * 4, axis=-1), images.tolist(), None]
            )
        )
        labels = draw(
            st.sampled_from(
                [labels, labels - 1, labels + 1, labels[:-1], labels[None]]
                + [labels.astype(np.float32), labels == 1, labels.tolist()]
                + [labels + 4999, labels.astype(str), None]
            )
        )
    usual = [0.0, 1e-9, 0.05, 0.3, 1.0]
    odd = [-0.1, math.nan, math.inf, 8.0, "0.1", None, True]
    wholes = [1, 2, 7, 0, -1, 1.5, True, 10**9, "3", None]
    arguments = {
        "epsilon": draw(st.sampled_from(usual if is_usual else usual + odd)),
        "batch_size": draw(
            st.sampled_from(wholes[:3] + [10**9] if is_usual else wholes)
        ),
        "num_restarts": draw(
            st.sampled_from(wholes[:2] if is_usual else wholes[:7])
        ),
    }
    return is_usual, images, labels, arguments


def logits(images):
    """Two classes by a linear map of six pixels, as a user writes it."""
    score = tf.reduce_sum(images[:, :, :, 0] * WEIGHTS, axis=[1, 2]) + SHIFT
    return tf.stack([-score, score], axis=1)


def worst_margins(images, labels, epsilon):
    """The least margin in the ball and the box, and the clean one."""
    sign = np.where(labels == 1, 1.0, -1.0)[:, None, None]
    x = np.float64(images)[..., 0]
    toward = np.clip(x - epsilon * np.sign(sign * WEIGHTS), 0.0, 1.0)
    # Of an image in the box no pixel moves farther than epsilon.
    return [
        2 * sign[:, 0, 0] * ((at * WEIGHTS).sum(axis=(1, 2)) + SHIFT)
        for at in (toward, x)
    ]


@counts(30, 400)
def test_an_attack_on_any_arrays_is_exact_or_refused(count):
    """One signed step reaches the worst image of a linear model."""
    answered = 0

    @tried(count)
    @hypothesis.given(_arrays())
    def run(drawn):
        nonlocal answered
        is_usual, images, labels, arguments = drawn
        found = or_refused(
            attacks.run, logits, images, labels, "fgs", **arguments
        )
        if found is None:
            assert not is_usual or not len(images)
            return
        answered += 1
        images, labels = np.asarray(images), np.asarray(labels)
        assert images.min() >= 0 and images.max() <= 1
        # Of other channels the model takes the first.
        assert images.shape[:3] == (len(labels), *SHAPE[:2])
        worst, clean = worst_margins(images, labels, arguments["epsilon"])
        is_close = np.minimum(np.abs(worst), np.abs(clean)) < 1e-4
        expected = (worst > 0) & (clean > 0)
        assert (found.is_robust == expected)[~is_close].all()

    run()
    assert answered > count // 8


# Configs and flags.

_LEAVES = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 10**30, 1e-9, -0.5, 1e300, ""]),
    st.sampled_from([math.nan, math.inf, "x\n", "\x1b[31m", "=1+1", [], {}]),
    st.sampled_from([[1, "a"], {"name": "mlp"}, "fgs", "standard", (), b"y"]),
    st.text(max_size=6),
    st.integers(-(2**70), 2**70),
    st.floats(),
)


def _paths(value, inside=()):
    """The places of a nested config, sections and fields."""
    for name, part in value.items():
        yield (*inside, name)
        if isinstance(part, dict):
            yield from _paths(part, (*inside, name))


def changed(draw, config):
    """A config with a field set to something, left out or added."""
    config = copy.deepcopy(config)
    *sections, name = draw(st.sampled_from(sorted(_paths(config))))
    section = config
    for part in sections:
        section = section[part]
    kind = draw(st.sampled_from(["set", "set", "leave out", "add"]))
    if kind == "set":
        section[name] = draw(_LEAVES)
    elif kind == "leave out":
        del section[name]
    else:
        section[draw(st.text(min_size=1, max_size=8))] = draw(_LEAVES)
    return config


@pytest.mark.parametrize(
    ("module", "check"),
    [
        (aa_mt, audit_settings.check),
        (mnist_vib, training_settings.check),
    ],
    ids=["audit", "training"],
)
@counts(150, 3000)
def test_any_config_is_taken_or_refused(module, check, count):
    config = module.get_config().to_dict()

    @tried(count)
    @hypothesis.given(st.data())
    def run(data):
        or_refused(check, changed(data.draw, config))

    check(config)
    run()


@counts(150, 3000)
def test_any_flag_is_taken_or_refused(count):
    config = aa_mt.get_config()
    names = [".".join(path) for path in sorted(_paths(config.to_dict()))]

    @tried(count)
    @hypothesis.given(
        st.sampled_from(names),
        st.text(max_size=3),
        st.sampled_from(["=", "", " "]),
        st.text(max_size=8) | _LEAVES.map(str),
    )
    def run(name, more, between, value):
        typed = [f"--config.{name}{more}{between}{value}"]
        fresh = ml_collections.ConfigDict(config.to_dict())
        or_refused(overrides.normalise, typed, fresh)

    run()
