"""An audit's lower bound: its oracles are the closed form of linear models."""

import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import certify
from ib_keras import files
from ib_keras.attacks import runner as attack_runner
from ib_keras.audit import audited_model
from ib_keras.audit import certificates
from ib_keras.audit import function
from ib_keras.audit import runner
from ib_keras.audit import settings
from ib_keras.audit import subject as subjects
from ib_keras.audit import verdict
from ib_keras.audit import verify
from ib_keras.audit.config import Certify
from ib_keras.audit.examples import Examples
from ib_keras.audit.verify import certificates as verify_certificates
from ib_keras.audit.verify import claims
from ib_keras.audit.verify import intervals
from ib_keras.errors import ContradictionError
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel
from tests.support import runs

EPSILON = 0.05
SHAPE = (4, 4, 1)
# Of two classes the gradient points to the nearest wrong image.
CLASSES = 2


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(3)
    return rng.normal(size=(16, CLASSES)).astype(np.float32)


def images_and_labels(weights, count=60):
    """Random images; a tenth of the labels are wrong."""
    rng = np.random.default_rng(4)
    images = rng.uniform(0.2, 0.8, (count, *SHAPE)).astype(np.float32)
    labels = (images.reshape(count, -1) @ weights).argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % CLASSES
    return images, labels.astype(np.int32)


def exact(weights, images, labels, epsilon=EPSILON):
    """Which examples are robust: the box does not cut these balls."""
    kernel = weights.astype(np.float64)
    scores = images.reshape(len(images), -1) @ kernel
    rows = np.arange(len(labels))
    margins = np.full(scores.shape, np.inf)
    for other in range(CLASSES):
        steepest = np.abs(kernel[:, labels] - kernel[:, [other]]).sum(axis=0)
        margin = scores[rows, labels] - scores[:, other] - epsilon * steepest
        margins[:, other] = np.where(labels == other, np.inf, margin)
    return margins.min(axis=1) > 0


def config(**changes):
    return runs.audit_config(
        **{
            "threat_model.epsilon": EPSILON,
            "certify.method": "ibp",
            "stages.pgd.attack.step_size": 0.02,
            **changes,
        }
    )


def audit(weights, workdir, changes=None, model=None, **more):
    images, labels = images_and_labels(weights)
    return function.run(
        model or linear_model(weights),
        images,
        labels,
        epsilon=None,
        protocol=config(**(changes or {})),
        workdir=str(workdir),
        **more,
    )


def examples_of(workdir):
    return files.read_npz(f"{workdir}/examples.npz")


def summary_of(workdir):
    return files.read_json(f"{workdir}/summary.json")


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """A linear model's audit with certificates at two radii; read only."""
    workdir = tmp_path_factory.mktemp("certified")
    audit(
        weights,
        workdir,
        {
            "epsilon_curve": [0.02],
            "certify.radius": True,
            "diagnostics.set": "quick",
        },
    )
    return workdir


def test_a_linear_model_is_certified_by_its_closed_form(weights, finished):
    images, labels = images_and_labels(weights)
    for epsilon, folder in (
        (EPSILON, finished),
        (0.02, finished / "epsilon_0.02"),
    ):
        robust = exact(weights, images, labels, epsilon)
        found, summary = examples_of(folder), summary_of(folder)
        np.testing.assert_array_equal(found["is_certified"], robust)
        assert summary["certified_accuracy"] == robust.mean()
        assert summary["robust_accuracy"] == robust.mean()
        said = summary["certification"]
        assert said["statement"] == "exact" and said["reason"] is None
        assert said["num_certified"] == robust.sum()
        assert said["num_by_method"] == {"ibp": robust.sum()}
        assert 0 < robust.mean() < 0.9


def test_what_is_proved_is_not_attacked(finished):
    found, summary = examples_of(finished), summary_of(finished)
    spent = found["gradient_evaluations"]
    assert (spent[found["is_certified"]] == 0).all()
    right = found["clean_prediction"] == found["label"]
    assert (spent[right & ~found["is_certified"]] > 0).all()
    attacked = int((right & ~found["is_certified"]).sum())
    assert summary["stages"][0]["num_attacked"] == attacked
    assert summary["epsilon_curve"][0]["certified_accuracy"] > 0.5


def test_wrong_clean_labels_are_never_certified(finished):
    found = examples_of(finished)
    wrong = found["clean_prediction"] != found["label"]
    assert wrong.sum() >= 6
    assert not found["is_certified"][wrong].any()
    assert (found["certified_radius"][wrong] == 0).all()


def test_radii_are_those_of_the_closed_form(weights, finished):
    images, labels = images_and_labels(weights)
    radius = examples_of(finished)["certified_radius"]
    step = EPSILON / 64
    inside = (radius > 0) & (radius < 0.15)  # The box cuts larger balls.
    proved = np.where(inside, radius - 1e-6, 0.0)
    for row in np.flatnonzero(inside):
        one = (images[[row]], labels[[row]])
        assert exact(weights, *one, proved[row]).all()
        assert not exact(weights, *one, radius[row] + 1.01 * step).any()
    assert inside.sum() > 20
    certified = examples_of(finished)["is_certified"]
    np.testing.assert_array_equal(radius >= EPSILON, certified)


def test_the_bracket_is_closed_and_the_number_believed(finished):
    said = files.read_json(finished / "findings.json")["verdict"]
    assert said["label"] == "believable"
    assert "within a point" in said["sentence"]


def test_certified_examples_are_attacked_if_asked(weights, tmp_path):
    audit(weights, tmp_path, {"certify.attack_certified": True})
    found = examples_of(tmp_path)
    assert (found["gradient_evaluations"][found["is_certified"]] > 0).all()
    assert verify.verify(str(tmp_path), linear_model(weights)).ok


def linear_model(weights):
    return audited_model.from_function(
        lambda x: tf.reshape(x, [-1, 16]) @ weights, SHAPE, CLASSES
    )


def test_a_contradiction_is_saved_and_stops_the_audit(
    weights, tmp_path, monkeypatch
):
    """Every example is claimed to be proved, and some are broken."""
    certified = certify.Certifier.certify

    def all_good(self, images, *more):
        found = certified(self, images, *more)
        good = np.ones(len(images), bool)
        return found._replace(is_certified=good, method=0 * found.method)

    monkeypatch.setattr(certify.Certifier, "certify", all_good)
    with pytest.raises(ContradictionError, match="fault of ib_keras"):
        audit(weights, tmp_path, {"certify.attack_certified": True})
    assert not (tmp_path / "summary.json").exists()
    saved = files.read_npz(tmp_path / "contradiction.npz")
    images, labels = images_and_labels(weights)
    np.testing.assert_array_equal(saved["images"], images[saved["index"]])
    scores = saved["adversarial_images"].reshape(-1, 16) @ weights
    assert (scores.argmax(axis=1) != saved["label"]).all()
    moved = np.abs(saved["adversarial_images"] - saved["images"])
    assert moved.max() <= EPSILON + 1e-6


def test_certificates_that_were_saved_are_not_asked_for_again(
    weights, tmp_path, monkeypatch
):
    asked, certified = [], certify.Certifier.certify

    def count(self, images, *more):
        asked.append(len(images))
        return certified(self, images, *more)

    monkeypatch.setattr(certify.Certifier, "certify", count)
    monkeypatch.setattr(certificates, "_BATCH", 16)
    images, labels = images_and_labels(weights)
    right = 54  # A tenth of 60 labels is wrong.

    def stopped(after):
        """Runs until so many questions of the guard were asked."""
        calls = iter(range(10**6))
        return interrupted_audit(
            weights, tmp_path, lambda: next(calls) >= after
        )

    with pytest.raises(Interrupted, match="after 32 of 54 certificates"):
        stopped(1)
    assert sum(asked) == 32
    with pytest.raises(Interrupted, match="stage 0"):
        stopped(2)
    assert sum(asked) == right
    stopped(10**6)
    assert sum(asked) == right
    other = tmp_path / "whole"
    interrupted_audit(weights, other, lambda: False)
    mine, whole = examples_of(tmp_path), examples_of(other)
    for name, array in whole.items():
        np.testing.assert_array_equal(mine[name], array, err_msg=name)


def interrupted_audit(weights, workdir, should_stop):
    images, labels = images_and_labels(weights)
    about = {"name": "npz", "split": "test", "description": "planted"}
    given = Examples(images, labels, about, images, labels)
    asked = config()
    subject = subjects.load(asked, linear_model(weights), given=given)
    return runner.audit_subject(
        asked, subject, str(workdir), should_stop=should_stop, quiet=True
    )


def test_an_operation_without_bounds_is_named_and_attacked(weights, tmp_path):
    def rounded(x):
        x = tf.reshape(x, [-1, 16])
        return (x + tf.round(x) - tf.stop_gradient(x)) @ weights + x @ weights

    result = audit(weights, tmp_path, model=rounded)
    summary = summary_of(tmp_path)
    assert summary["certified_accuracy"] is None
    assert "Round" in summary["certification"]["reason"]
    assert summary["stages"][0]["num_attacked"] > 0
    assert "is_certified" not in examples_of(tmp_path)
    assert result.certified_accuracy is None


def test_fresh_noise_has_its_confidence_and_keeps_no_broken_example(
    tmp_path,
):
    made = runs.audit_config(
        mode="stochastic",
        num_examples=12,
        **{
            "threat_model.epsilon": 0.002,
            "certify.method": "ibp",
            "certify.num_draws": 10,
            "certify.attack_certified": True,
        },
    )
    runner.audit(made, runs.digits_model("vib"), str(tmp_path), quiet=True)
    summary, found = summary_of(tmp_path), examples_of(tmp_path)
    said = summary["certification"]
    assert said["statement"] == "fresh noise"
    assert (said["num_draws"], said["confidence"]) == (10, 0.999)
    # All of ten: 2^-10 is below a thousandth.
    assert (found["certified_draws"][found["is_certified"]] == 10).all()
    assert 0 < summary["certified_accuracy"] <= summary["robust_accuracy"]
    assert verify.verify(str(tmp_path), num_draws=25).ok


def test_fresh_noise_withdraws_what_is_broken(tmp_path):
    found = certificates.Certificates.blank(3)
    found.is_certified[:] = True
    found.statement = certificates.FRESH_NOISE

    class Ledger:
        broken_by_stage = np.array([-1, 0, -1])

    certificates.settle(found, Ledger, np.zeros([3, 1, 1, 1]), "", 0.1)
    np.testing.assert_array_equal(found.is_certified, [True, False, True])
    assert found.num_withdrawn == 1


# Verification.


def failed(folder, model):
    return verify.verify(str(folder), model).failed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["is_certified"].__setitem__(broken(a)[0], True), "broken"),
        (lambda a: a["is_certified"].__setitem__(0, True), "clean error"),
        (lambda a: a["certified_by"].__setitem__(certified(a)[0], 2), "_by"),
        (
            lambda a: a["is_certified"].__setitem__(certified(a)[0], False),
            "_by",
        ),
        (
            lambda a: a["certified_radius"].__setitem__(certified(a)[0], 0),
            "rad",
        ),
    ],
)
def test_an_altered_certificate_is_caught(weights, finished, change, words):
    folder = claims_of(finished)
    assert certificates_of(folder) == []
    change(folder.arrays)
    assert words in " ".join(certificates_of(folder))


def broken(arrays):
    return np.flatnonzero(arrays["broken_by_stage"] >= 0)


def certified(arrays):
    return np.flatnonzero(arrays["is_certified"])


def claims_of(workdir):
    made = files.read_json(f"{workdir}/config.json")
    return claims.Folder(
        made["audit"], "", summary_of(workdir), examples_of(workdir)
    )


def certificates_of(folder):
    return verify_certificates.claims_hold(folder)


def test_an_honest_folder_passes_and_says_what_was_proved_again(
    weights, finished
):
    found = verify.verify(str(finished), linear_model(weights))
    assert found.ok, found.failed
    said = {check.name: check.sentence for check in found.checks}
    count = int(examples_of(finished)["is_certified"].sum())
    assert said["proofs"] == f"{count} are bounded again in NumPy"
    assert "epsilon_0.02/proofs" in said
    assert not any("certif" in name for name in found.unchecked)


def test_a_saved_image_that_breaks_a_certified_example_is_caught(
    weights, finished, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "altered")
    arrays = examples_of(folder)
    row = certified(arrays)[0]
    label = arrays["label"][row]
    steep = (weights - weights[:, [label]]).sum(axis=1)
    image = np.clip(0.5 + np.sign(steep), 0, 1).reshape(SHAPE)
    arrays["adversarial_images"][row] = image
    files.write_npz(f"{folder}/examples.npz", arrays)
    assert {"ball", "robust_examples"} <= set(
        failed(folder, linear_model(weights))
    )


def relu_network(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 1, 4)).astype(np.float32)
    first = rng.normal(size=(16, 12)).astype(np.float32) / 4
    second = rng.normal(size=(12, 8)).astype(np.float32) / 4
    last = rng.normal(size=(8, CLASSES)).astype(np.float32)

    def dense(x, seed):
        del seed
        x = tf.nn.relu(tf.reshape(2 * x - 1, [-1, 16]) @ first + 0.1)
        return tf.nn.bias_add((x @ second)[:, :8], 0.1 * np.ones(8, "f")) @ last

    def convolved(x, seed):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
        return dense(tf.reshape(x, [-1, 4, 4, 1]), seed)

    return {"dense": dense, "convolved": convolved}


@pytest.mark.parametrize("name", ["dense", "convolved"])
def test_bounds_in_numpy_are_those_of_the_library(name):
    """Two programmes that share no code; one counts rounding, one does not."""
    logits = relu_network()[name]
    rng = np.random.default_rng(5)
    images = rng.random((8, *SHAPE)).astype(np.float32)
    labels = np.argmax(logits(images, None), axis=1).astype(np.int32)
    said = certify.Certifier(logits, SHAPE, "ibp").certify(images, labels, 0.02)
    network = intervals.Network(logits, SHAPE)
    mine = [
        network.margins(x, y, 0.02).min()
        for x, y in zip(images, labels, strict=True)
    ]
    assert (said.margin <= mine).all()
    np.testing.assert_allclose(said.margin, mine, atol=1e-3)


def test_what_numpy_cannot_read_is_named():
    with pytest.raises(intervals.NotReadableError, match="Tanh"):
        intervals.Network(lambda x, s: tf.tanh(tf.reshape(x, [-1, 16])), SHAPE)
    with pytest.raises(intervals.NotReadableError, match="around the last"):
        intervals.Network(
            lambda x, s: tf.nn.relu(x[:, 0, :, 0]) + x[:, 1, :, 0], SHAPE
        )
    with pytest.raises(intervals.NotReadableError, match="RandomUniform"):
        intervals.Network(
            lambda x, s: tf.reshape(x, [-1, 16]) + tf.random.uniform([16]),
            SHAPE,
        )


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_certificate_that_is_none_is_not_proved_again(
    weights, finished, method
):
    folder = claims_of(finished)
    folder.config["certify"]["method"] = method
    images, labels = images_and_labels(weights)
    row = broken(folder.arrays)[0]
    folder.arrays["is_certified"][:] = False
    folder.arrays["is_certified"][row] = True
    folder.arrays["certified_by"][row] = ("ibp", "crown").index(method)
    again = verify_certificates.Again(
        types.SimpleNamespace(
            logits_fn=lambda x, seed: tf.reshape(x, [-1, 16]) @ weights,
            images=images,
            labels=labels,
        )
    )
    assert "not proved again" in again.proves(folder)[0]


def test_a_certificate_of_noise_without_a_seed_is_not_proved_again(
    weights, finished
):
    """Neither NumPy nor the library proves anything of such a model."""
    folder = claims_of(finished)
    images, labels = images_and_labels(weights)

    def logits(x, seed):
        noise = tf.random.normal([len(labels[:1]), CLASSES])
        return tf.reshape(x, [-1, 16]) @ weights + 1e-6 * noise

    again = verify_certificates.Again(
        types.SimpleNamespace(logits_fn=logits, images=images, labels=labels)
    )
    assert "RandomStandardNormal" in again.problem
    assert "RandomStandardNormal" in again.proves(folder)[0]


# The config.


def test_methods_are_those_of_the_library():
    assert settings.CERTIFY_METHODS == ("none", *certify.METHODS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threat_model.norm": "l2"}, "linf balls alone"),
        ({"certify.method": "crwn"}, 'Did you mean "crown"'),
        ({"mode": "stochastic", "certify.radius": True}, "noise"),
        ({"mode": "stochastic", "certify.num_draws": 9}, "So few draws"),
        ({"mode": "stochastic", "certify.confidence": 1.0}, "So few draws"),
    ],
)
def test_what_cannot_be_certified_is_refused_early(changes, words):
    with pytest.raises(UserError, match=words):
        settings.check_start(config(**changes), None)


def test_configs_without_the_section_stay_valid(weights, tmp_path):
    """A folder of an older version is resumed by the config of today."""
    today = config(**{"certify.method": "none"})
    old = {k: v for k, v in today.items() if k != "certify"}
    assert Certify.of(old) == Certify.of(today)
    settings.check(old)
    model = runs.digits_model("vib")
    runner.audit(old, model, str(tmp_path), quiet=True)
    assert (
        "certify"
        not in json.loads((tmp_path / "config.json").read_text())["audit"]
    )
    assert verify.verify(str(tmp_path)).ok
    runner.audit(today, model, str(tmp_path), quiet=True)
    today["certify"]["method"] = "ibp"
    with pytest.raises(UserError, match="certify.method"):
        runner.audit(today, model, str(tmp_path), quiet=True)


# The verdict.


def judged(findings, robust, certified, curve=(), **more):
    summary = {
        "robust_accuracy": robust,
        "certified_accuracy": certified,
        "certification": {"confidence": None},
        "epsilon_curve": [
            {"robust_accuracy": r, "certified_accuracy": c} for r, c in curve
        ],
        **more,
    }
    return verdict.decide(findings, summary)


def finding(id, status="pass"):
    return {
        "id": id,
        "status": status,
        "evidence": f"{id} says so.",
        "advice": "",
        "data": {},
    }


ALL = [finding(id) for id in verdict.NEEDED]


@pytest.mark.parametrize(
    ("findings", "robust", "certified", "curve", "label"),
    [
        # Signs of masked gradients do not matter where both bounds meet.
        ([*ALL, finding("D8", "fail")], 0.95, 0.94, (), "believable"),
        ([*ALL, finding("D8", "fail")], 0.95, 0.93, (), "upper_bound"),
        ([*ALL, finding("D8", "fail")], 0.95, None, (), "upper_bound"),
        # What makes the function or the number invalid does.
        ([*ALL, finding("M1", "fail")], 0.95, 0.95, (), "invalid"),
        # A check of gradients may be missing, one of validity may not.
        ([finding("D33")], 0.95, 0.95, (), "believable"),
        ([finding("D8")], 0.95, 0.95, (), "upper_bound"),
        # One verdict is of all radii.
        ([finding("D33")], 0.95, 0.95, [(0.5, 0.5)], "believable"),
        ([finding("D33")], 0.95, 0.95, [(0.5, 0.4)], "upper_bound"),
        ([finding("D33")], 0.95, 0.95, [(0.5, None)], "upper_bound"),
    ],
)
def test_where_both_bounds_meet_the_number_is_known(
    findings, robust, certified, curve, label
):
    assert judged(findings, robust, certified, curve)["label"] == label


def test_work_left_does_not_count_what_is_spared():
    stage = attack_runner.Stage.build(
        {"num_restarts": 2, "attack": {"name": "pgd", "num_steps": 5}}
    )
    made = attack_runner.Runner(
        lambda x, seed: tf.reshape(x, [-1, 16])[:, :2],
        [stage],
        ThreatModel("linf", 0.1),
    )
    images = np.full([4, *SHAPE], 0.5, np.float32)
    progress = made.start(images, np.zeros(4, np.int32))
    progress.ledger.is_robust[:] = True
    whole = made.work(progress, 2)[1]
    progress.spared = np.array([True, True, True, False])
    assert made.work(progress, 2)[1] == whole / 4
