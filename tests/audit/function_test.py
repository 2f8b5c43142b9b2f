"""`ib_keras.audit(...)`: one call, any model, and what comes back."""

import functools
import html
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import ib_keras
from configs.audits import fgs_epsilons
from ib_keras import files
from ib_keras import notebook
from ib_keras.audit import audited_model
from ib_keras.audit import function
from ib_keras.audit import result as results
from ib_keras.audit import runner
from ib_keras.audit import verify
from ib_keras.errors import UserError
from tests.support import marks
from tests.support import runs

EPSILON = 0.08
FGS = {"protocol": "fgs_epsilons", "diagnostics": "none", "epsilon": EPSILON}


@functools.cache
def digits():
    found = load_digits()
    images = (found.images / 16.0).astype(np.float32)[..., np.newaxis]
    return images, found.target.astype(np.int32)


def examples(count=40):
    images, labels = digits()
    return images[1500 : 1500 + count], labels[1500 : 1500 + count]


@functools.cache
def model():
    """The issue's own: a bottleneck between a CNN and a dense layer."""
    keras.utils.set_random_seed(0)
    cnn = keras.Sequential(
        [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    )
    made = keras.Sequential(
        [
            cnn,
            ib_keras.VIBLayer(64, beta=1e-2, scale_shift=0.0),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.Adam(1e-2), loss)
    images, labels = digits()
    made.fit(images[:1500], labels[:1500], epochs=3, verbose=0)
    return made


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The model as it is, in a `.keras` file and exported."""
    folder = tmp_path_factory.mktemp("places")
    model().save(folder / "model.keras")
    ib_keras.export.save(model(), str(folder / "saved_model"))
    return {
        "python": model(),
        "file": str(folder / "model.keras"),
        "export": str(folder / "saved_model"),
    }


@pytest.mark.parametrize(
    "mode", marks.others_slow(["mean", "stochastic"], ("stochastic",))
)
def test_the_three_forms_of_a_layered_model_are_audited_alike(places, mode):
    found = {}
    for name, place in places.items():
        found[name] = ib_keras.audit(
            place,
            *examples(),
            mode=mode,
            num_samples=4,
            input_range=(0.0, 1.0),
            **FGS,
        )
        assert found[name].audit.mode == mode
    python = found.pop("python")
    assert 0.8 < python.clean_accuracy
    assert python.robust_accuracy < python.clean_accuracy
    for other in found.values():
        assert other.clean_accuracy == python.clean_accuracy
        for array in ("is_robust", "label", "adversarial_prediction"):
            np.testing.assert_array_equal(
                other.examples[array], python.examples[array]
            )


@pytest.mark.slow
def test_a_whole_audit_has_a_verdict_and_can_be_verified(places, tmp_path):
    folder = str(tmp_path / "audit")
    found = ib_keras.audit(
        places["file"],
        *examples(30),
        epsilon=EPSILON,
        protocol="pgd_restarts",
        mode="stochastic",
        num_samples=4,
        input_range=(0.0, 1.0),
        workdir=folder,
    )
    assert found.folder == folder
    assert found.verdict in ("believable", "upper_bound", "invalid")
    summary = files.read_json(files.join(folder, "summary.json"))
    assert summary["robust_accuracy"] == found.robust_accuracy
    assert summary["threat_model"] == {"norm": "linf", "epsilon": EPSILON}
    assert summary["mode"] == "stochastic"
    assert verify.verify(folder).failed == ()
    with pytest.raises(UserError, match="another config"):
        ib_keras.audit(
            places["file"],
            1 - examples(30)[0],
            examples(30)[1],
            epsilon=EPSILON,
            protocol="pgd_restarts",
            mode="stochastic",
            num_samples=4,
            input_range=(0.0, 1.0),
            workdir=folder,
        )
    # Of the modes' own questions, that exist where there are two.
    asked = json.dumps(files.read_json(files.join(folder, "findings.json")))
    assert '"D21"' in asked


def test_it_finds_what_the_command_finds(tmp_path):
    """An export of ours and its own data set, against `runner.audit`."""
    path = runs.digits_model("vib")
    config = runs.audit_config("fgs_epsilons", num_examples=40)
    config["threat_model"]["epsilon"], config["epsilon_curve"] = EPSILON, []
    config["diagnostics"]["set"] = "none"
    config["batch_size"] = 500
    summary = runner.audit(config, path, str(tmp_path / "a"), quiet=True)
    found = ib_keras.audit(path, num_examples=40, **FGS)
    assert found.robust_accuracy == summary["robust_accuracy"]
    assert found.audit.dataset["name"] == "digits"
    assert found.clean_images is not None


def test_a_function_of_tensorflow_is_a_model(tmp_path):
    weights = np.linspace(-1, 1, 64 * 10).reshape(64, 10).astype(np.float32)
    images, _ = examples(8)
    labels = (images.reshape(8, -1) @ weights).argmax(-1)

    def linear(images):
        scores = tf.reshape(images, [-1, 64]) @ weights
        return {"scores": scores, "other": 1.0 * images}

    found = ib_keras.audit(linear, images, labels, output="scores", **FGS)
    assert found.clean_accuracy == 1.0
    # For a linear model FGS is the exact answer: by hand.
    logits = images.reshape(8, -1) @ weights
    assert found.audit.model.kind == "function"
    for i, label in enumerate(labels):
        gaps = [
            _best_gap(images[i].ravel(), weights, logits[i], label, other)
            for other in range(10)
            if other != label
        ]
        if found.examples["is_robust"][i] == 0:
            assert max(gaps) > 0


def _best_gap(image, weights, logits, label, other):
    """Largest logit of `other` over that of `label` in the ball and box."""
    slope = weights[:, other] - weights[:, label]
    up = np.minimum(EPSILON, 1 - image)
    down = np.minimum(EPSILON, image)
    move = np.where(slope > 0, up, -down)
    return logits[other] - logits[label] + slope @ move


@pytest.mark.slow
def test_all_given_examples_help_to_infer_the_inputs_of_a_file(tmp_path):
    """Few examples are attacked, and the model is found out by the others."""
    scaled = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dropout(0.0),
            model(),
        ]
    )
    scaled.save(tmp_path / "scaled.keras")
    images, labels = digits()
    found = ib_keras.audit(
        tmp_path / "scaled.keras", images, labels, num_examples=5, **FGS
    )
    assert found.audit.num_examples == 5
    assert found.audit.model.input_range == (0.0, 255.0)


def test_a_model_of_another_range_is_audited_in_pixel_units():
    scaled = keras.Sequential([keras.layers.Rescaling(1 / 255), model()])
    scaled(np.zeros([1, 8, 8, 1], np.float32))
    found = ib_keras.audit(scaled, *examples(), input_range=(0.0, 255.0), **FGS)
    expected = ib_keras.audit(model(), *examples(), **FGS)
    np.testing.assert_array_equal(
        found.examples["is_robust"], expected.examples["is_robust"]
    )


def test_the_same_call_resumes_and_a_temporary_folder_goes(tmp_path):
    folder = str(tmp_path / "audit")
    first = ib_keras.audit(model(), *examples(), workdir=folder, **FGS)
    before = (tmp_path / "audit" / "summary.json").read_bytes()
    again = ib_keras.audit(model(), *examples(), workdir=folder, **FGS)
    assert (tmp_path / "audit" / "summary.json").read_bytes() == before
    assert again.robust_accuracy == first.robust_accuracy
    gone = ib_keras.audit(model(), *examples(), **FGS)
    place = pathlib.Path(gone.folder)
    assert place.is_dir()
    del gone
    assert not place.exists()


def other_weights():
    other = keras.models.clone_model(model())
    other.set_weights([1.1 * w for w in model().get_weights()])
    return other


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: (lambda made: lambda x: made(x))(other_weights()),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: lambda x: model()(2.0 * x), marks=pytest.mark.slow
        ),
        lambda: (lambda w: lambda x: model()(x) * w)(tf.constant(2.0)),
    ],
    ids=["weights", "a number", "a tensor"],
)
def test_another_function_is_not_taken_for_the_audited_one(tmp_path, make):
    folder = str(tmp_path / "audit")
    for _ in range(2):  # The same one, in a function of its own each time.
        same = lambda x: model()(x)  # noqa: E731
        ib_keras.audit(same, *examples(), workdir=folder, **FGS)
    with pytest.raises(UserError, match="belongs to another config"):
        ib_keras.audit(make(), *examples(), workdir=folder, **FGS)


def test_a_function_is_the_same_one_in_another_process():
    """TensorFlow keeps a set of its variables; they count as they are used."""
    factors = [tf.Variable(float(i), name=f"factor_{i}") for i in range(12)]

    def function(images):
        logits = tf.reshape(images, [-1, 64])[:, :10]
        for factor in factors:
            logits *= factor
        return logits

    model = audited_model.from_function(function, (8, 8, 1), 10)
    assert list(model.endpoint.variables) == factors


def test_a_model_of_the_same_weights_is_not_taken_for_the_audited_one():
    """What is between the weights counts, whatever the model is called."""

    def build(activation):
        made = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(16, activation=activation),
                keras.layers.Dense(10),
            ],
            name="net",
        )
        made.set_weights([np.full(w.shape, 0.1) for w in made.get_weights()])
        return made

    models = [build("relu"), build("relu"), build("tanh")]
    one, same, other = (
        audited_model.from_function(each, (8, 8, 1), 10).sha256
        for each in models
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "without labels"),
        ({"dataset": "digits"}, "and a dataset"),
        ({"protocol": "aa_mtt"}, 'Did you mean "aa_mt"'),
        ({"protocol": "mine.py"}, "no such protocol"),
        ({"epsilon": 8}, "Did you mean 8/255"),
        ({"mode": "random"}, 'received: "random"|"random"'),
        ({"model": 5}, "This is not a model"),
        ({"model": "nowhere"}, "no SavedModel"),
        ({"images": np.zeros([0, 8, 8, 1]), "labels": []}, "no examples"),
        ({"images": np.full([2, 8, 8, 1], 7.0), "labels": [0, 1]}, "outside"),
        ({"diagnostics": "some"}, "set of diagnostics"),
        ({"labels": np.array(list("abc"))}, "not one integer class"),
        ({"labels": np.full(40, np.nan)}, "not one integer class"),
        ({"num_examples": -1}, "num_examples is not a count"),
        ({"num_examples": 2.5}, "num_examples is not a count"),
        ({"protocol": {"stages": {}}}, "sections dataset"),
        ({"protocol": ["fgs"]}, "sections dataset"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    images, labels = examples(4)
    arguments = {
        "model": lambda images: images[:, 0, :2, 0],
        "images": images,
        "labels": labels % 2,
        **FGS,
        **change,
    }
    with pytest.raises(UserError, match=message):
        function.run(**arguments)


def test_a_model_without_noise_has_no_stochastic_mode():
    with pytest.raises(UserError, match="no endpoint for stochastic mode"):
        ib_keras.audit(
            lambda x: tf.reshape(x, [-1, 64])[:, :10],
            *examples(),
            mode="stochastic",
            **FGS,
        )


def test_a_protocol_of_ones_own_is_a_file_or_a_config(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(
        "from configs import common\n"
        "def get_config():\n"
        "    attack = {'name': 'fgs'}\n"
        "    stages = {'mine': {'num_restarts': 1, 'attack': attack}}\n"
        "    return common.audit('mine', 1, 'linf', 0.05, stages)\n"
    )
    found = ib_keras.audit(
        model(), *examples(8), protocol=str(own), diagnostics="none"
    )
    assert found.audit.protocol == "mine"
    config = runs.audit_config("fgs_epsilons", mode="stochastic", seed=3)
    config["diagnostics"]["set"] = "none"
    config["num_samples"] = 2
    found = ib_keras.audit(model(), *examples(8), protocol=config)
    assert found.audit.protocol == "fgs_epsilons"
    # What is not said is the protocol's.
    assert found.audit.mode == "stochastic" and found.audit.seed == 3
    assert found.verdict is None
    config = fgs_epsilons.get_config()
    config.diagnostics.set = "none"
    found = ib_keras.audit(model(), *examples(8), protocol=config, epsilon=0.1)
    assert found.audit.protocol == "fgs_epsilons"


# --- What results look like ---------------------------------------------------


@pytest.fixture(scope="module")
def finished():
    return ib_keras.audit(model(), *examples(), **FGS)


def test_a_result_prints_its_numbers_in_a_line(finished):
    said = repr(finished)
    assert "\n" not in said and len(said) < 500
    assert f"robust accuracy: {finished.robust_accuracy:.1%}" in said
    assert f"clean accuracy: {finished.clean_accuracy:.1%}" in said
    assert "epsilon 0.08" in said and "no diagnostics" in said


def test_the_attack_prints_its_numbers_in_a_line():
    found = ib_keras.attack(model(), *examples(), "fgs", epsilon=EPSILON)
    said = repr(found)
    assert "\n" not in said and len(said) < 300
    assert f"robust accuracy {found.robust_accuracy:.1%}" in said
    assert f"{found.robust_accuracy:.1%}" in found._repr_html_()


def test_the_report_opens_inline(finished):
    page = finished.report()
    text = pathlib.Path(page).read_text("utf-8")
    shown = page._repr_html_()
    assert shown.count("<") == 2  # <iframe> and </iframe>: the rest is text.
    assert 'sandbox=""' in shown
    inside = shown.split('srcdoc="')[1].split('"')[0]
    assert html.unescape(inside) == text


def test_what_others_wrote_is_escaped():
    evil = "<script>alert('x')</script>\"&"
    for shown in (
        notebook.table(evil, [(evil, evil)], evil),
        notebook.frame(evil),
    ):
        assert "<script" not in shown and "&lt;script&gt;" in shown


def test_the_name_of_a_protocol_cannot_run_in_a_notebook(tmp_path):
    config = runs.audit_config("fgs_epsilons")
    config["protocol"] = "<img src=x onerror=alert(1)>"
    found = ib_keras.audit(
        model(), *examples(8), protocol=config, diagnostics="none"
    )
    assert "<img" not in found._repr_html_()
    assert "<img" not in found.report()._repr_html_()


def test_a_finished_audit_is_read_however_it_was_started(tmp_path):
    folder = str(tmp_path / "audit")
    config = runs.audit_config("fgs_epsilons")
    summary = runner.audit(config, runs.digits_model("vib"), folder, quiet=True)
    found = ib_keras.audit.load(folder)
    assert isinstance(found, results.AuditResult)
    assert found.robust_accuracy == summary["robust_accuracy"]
    assert found.clean_images.shape == (summary["num_examples"], 8, 8, 1)
