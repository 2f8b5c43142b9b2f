"""Every encoder and every bottleneck has bounds, in every mode that it has."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import certify
from ib_keras import modes
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.audit.verify import intervals
from tests.support import marks
from tests.support import models

SHAPE = (8, 8, 3)
EPSILON = 1e-4


def logits_fns(model):
    """The functions of a model by mode."""
    mean = modes.mean(model)
    found = {"mean": lambda images, seed: mean(images)}
    if modes.is_stochastic(model):
        draw = modes.stochastic(model)
        found["stochastic"] = lambda images, seed: draw(images, seed, 2)
    return found


def assert_repeated(logits_fn, shape):
    """Verification in NumPy reads the graph and proves no less."""
    images = models.data(4, shape)[0]
    labels = np.argmax(logits_fn(images, None), axis=1).astype(np.int32)
    found = certify.Certifier(logits_fn, shape, "ibp").certify(
        images, labels, EPSILON
    )
    network = intervals.Network(logits_fn, shape)
    margins = [
        network.margins(image, label, EPSILON).min()
        for image, label in zip(images, labels, strict=True)
    ]
    assert np.isfinite(margins).all()
    assert (found.margin <= margins).all()


def assert_sound(logits_fn, shape, method):
    """No image that was seen contradicts a proof; gives the proofs."""
    images = models.data(4, shape)[0]
    seed = seeds.from_int(5)

    def ask(batch):
        rows = [logits_fn(tf.constant(image[None]), seed) for image in batch]
        return np.concatenate(rows)

    labels = ask(images).argmax(axis=1).astype(np.int32)
    certifier = certify.Certifier(logits_fn, shape, method)
    found = certifier.certify(images, labels, EPSILON, seed=seed)
    rng = np.random.default_rng(0)
    for _ in range(4):
        signs = np.sign(rng.normal(size=images.shape))
        moved = np.clip(images + EPSILON * signs, 0, 1).astype(np.float32)
        is_same = ask(moved).argmax(axis=1) == labels
        assert is_same[found.is_certified].all()
    return found


@pytest.mark.parametrize(
    "name",
    marks.others_slow(plugins.names("bottlenecks"), ("ceb", "deterministic")),
)
def test_bottlenecks(name):
    section = {"name": name, "latent_dim": 5}
    model = models.randomise(models.build(section, SHAPE), scale=0.3)
    assert_repeated(logits_fns(model)["mean"], SHAPE)
    for mode, logits_fn in logits_fns(model).items():
        found = assert_sound(logits_fn, SHAPE, "crown")
        assert found.is_certified.any()
        # An interval of a covariance may have no Cholesky factor: no bound.
        has_bound = np.isfinite(found.margin)
        assert has_bound.all() or mode == "stochastic"
        assert not found.is_certified[~has_bound].any()


@pytest.mark.parametrize(
    "name",
    marks.others_slow(
        plugins.names("encoders"), ("linear", "mlp", "small_cnn")
    ),
)
def test_encoders(name):
    section = {"name": "deterministic", "latent_dim": 4}
    model = models.build(section, SHAPE, encoder={"name": name})
    mean = logits_fns(model)["mean"]
    assert_sound(mean, SHAPE, "ibp")
    if name != "preact_resnet18":  # Read where it was exported.
        assert_repeated(mean, SHAPE)
