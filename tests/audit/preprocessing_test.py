"""What is done to images before a model sees them is said and done exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.audit.audited_model import io_spec as io_specs
from ib_keras.audit.audited_model import preprocessing
from ib_keras.audit.audited_model.signatures import Endpoint
from tests.support import foreign
from tests.support import runs

SEED = seeds.from_int(0)


def applied(said, images):
    io_spec = io_specs.IOSpec(images.shape[1:], preprocessing=said)
    endpoint = Endpoint("f", lambda x: x)
    return io_specs.prepare(tf.constant(images), endpoint, io_spec).numpy()


def colours():
    images = np.random.default_rng(0).uniform(0, 1, [5, 4, 4, 3])
    return images.astype(np.float32)


@pytest.mark.parametrize(
    ("recipe", "mode"),
    [("signed", "tf"), ("imagenet", "torch"), ("imagenet_caffe", "caffe")],
)
def test_recipes_are_those_of_keras(recipe, mode):
    images = colours()
    expected = keras.applications.imagenet_utils.preprocess_input(
        images * 255.0, data_format="channels_last", mode=mode
    )
    found = applied(preprocessing.RECIPES[recipe], images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", preprocessing.RECIPES)
def test_the_range_is_that_of_what_comes_out(name):
    recipe = preprocessing.RECIPES[name]
    ends = np.stack([np.zeros([2, 2, 3]), np.ones([2, 2, 3])])
    found = applied(recipe, ends.astype(np.float32))
    np.testing.assert_allclose(
        (found.min(), found.max()), recipe.input_range, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("section", "scale", "offset"),
    [
        ({"scale": 2, "offset": (-1.0,)}, (2.0,), (-1.0,)),
        ({"scale": (2.0, 3.0, 4.0)}, (2.0, 3.0, 4.0), (0.0,) * 3),
        ({"mean": 0.25, "std": 0.5}, (2.0,), (-0.5,)),
        ({"mean": (0.0, 0.1, 0.2)}, (1.0,) * 3, (0.0, -0.1, -0.2)),
        ({"recipe": "bytes"}, (255.0,), (0.0,)),
    ],
)
def test_it_is_specified_in_three_ways(section, scale, offset):
    found = preprocessing.from_config({**section, "channel_order": None})
    assert found.scale == pytest.approx(scale)
    assert found.offset == pytest.approx(offset)


def test_without_fields_there_is_none():
    empty = dict.fromkeys(("recipe", "scale", "channel_order"))
    assert preprocessing.from_config(None) is None
    assert preprocessing.from_config(empty) is None


def test_the_channels_are_reversed_first():
    section = {"scale": (1.0, 2.0, 4.0), "channel_order": "bgr"}
    images = colours()
    expected = images[..., ::-1] * np.array([1, 2, 4], np.float32)
    found = applied(preprocessing.from_config(section), images)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"recipe": "imagnet"}, 'Did you mean "imagenet"'),
        ({"sclae": 1.0}, 'Did you mean "scale"'),
        ({"scale": "wide"}, "one for each channel"),
        ({"std": 0.0}, "none of them 0"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": (1.0, 2.0, 3.0), "offset": (1.0, 2.0)}, "channel"),
        ({"recipe": "mnist", "std": 2.0}, "Keep one of them"),
        ({"channel_order": "gbr"}, "channel_order"),
    ],
)
def test_what_is_invalid_is_refused(section, said):
    error = runs.refused(preprocessing.from_config, section)
    assert said in str(error)


def test_a_range_beside_it_is_refused():
    both = {"input_range": (0, 1), "preprocessing": {"recipe": "unit"}}
    error = runs.refused(audited_model.Options.from_config, both)
    assert "input_range" in error.fix


def test_channels_must_be_those_of_the_data():
    said = audited_model.Options.from_config(
        {"preprocessing": {"recipe": "cifar10"}}
    )
    model = audited_model.load(foreign.module(), options=said)
    error = runs.refused(model.infer_io, *foreign.data())
    assert "(8, 8, 1)" in error.received


def test_what_is_specified_is_audited_and_in_the_summary():
    """Also where a recipe would have been refused."""
    module = foreign.module(lambda x: foreign.logits(0.2 * x + 0.3))
    section = {"mean": 0.3, "std": 0.2}
    said = audited_model.Options.from_config(
        {"preprocessing": {"scale": 5.0, "offset": -1.5}}
    )
    same = audited_model.Options.from_config({"preprocessing": section})
    images, labels = foreign.data()
    for options in (said, same):
        model = audited_model.load(module, options=options).infer_io(
            images, labels
        )
        found = model.logits_fn("mean")(tf.constant(images[:9]), SEED)
        np.testing.assert_allclose(
            found, foreign.expected(images[:9]), atol=1e-4
        )
        described = model.describe()
        assert described["input_range"] == pytest.approx([-1.5, 3.5])
        assert described["preprocessing"]["scale"] == pytest.approx([5.0])
        assert model.io_spec.preprocessing.epsilon(0.1) == pytest.approx([0.5])
