"""An audit says only what its examples show, and survives what stops it."""

import json
import math
import os
import pathlib
import shutil
import signal
import socket

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras.attacks import runner as attack_runner
from ib_keras.audit import protocol
from ib_keras.audit import radius
from ib_keras.audit import report
from ib_keras.audit import runner
from ib_keras.audit import statistics
from ib_keras.audit import subject as subjects
from ib_keras.audit import verify
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from tests.support import runs

EPSILON = 0.1


def audit(config, workdir, model=None, **more):
    model = model or runs.digits_model("vib")
    return runner.audit(config, model, str(workdir), quiet=True, **more)


def read(workdir):
    """Summary and examples of a finished audit; no NaN in the JSON."""

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    text = (pathlib.Path(workdir) / "summary.json").read_text()
    summary = json.loads(text, parse_constant=no_constant)
    with np.load(pathlib.Path(workdir) / "examples.npz") as arrays:
        return summary, dict(arrays)


def clean_examples(count):
    from ib_keras.data import digits

    images, labels = digits.build().load("test")
    return images[:count].astype(np.float32) / 255, labels[:count]


def two_stages(**changes):
    """FGS, then PGD with three restarts on robust examples."""
    stages = runs.audit_config("fgs_epsilons")["stages"]
    config = runs.audit_config(**changes)
    config["stages"] = stages | config["stages"]
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of an audit of 60 digits in batches of 16."""
    workdir = tmp_path_factory.mktemp("finished")
    returned = audit(two_stages(), workdir, command="python -m planted")
    assert returned == json.loads((workdir / "summary.json").read_text())
    return workdir


def test_an_audit_opens_no_connection(tmp_path, monkeypatch):
    """By Python's sockets; what C++ opens is not seen here."""
    asked = []

    def refuse(*given, **named):
        asked.append(given)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    asked.clear()
    audit(runs.audit_config(), tmp_path)
    report.write([str(tmp_path)], str(tmp_path / "report.html"))
    assert not asked


# What a finished audit says.


def test_the_summary_has_all_fields_of_their_types(finished):
    summary, _ = read(finished)
    types = {
        "protocol": str,
        "protocol_version": int,
        "threat_model": dict,
        "epsilon_in_model_units": list,
        "mode": str,
        "num_samples": type(None),
        "num_judge_samples": int,
        "num_final_draws": int,
        "logit_scale": float,
        "num_examples": int,
        "clean_accuracy": float,
        "robust_accuracy": float,
        "robust_accuracy_ci95": list,
        "expected_accuracy": float,
        "certified_accuracy": type(None),
        "certification": type(None),
        "stages": list,
        "gradient_evaluations": int,
        "num_nonfinite_examples": int,
        "num_zero_gradient_examples": int,
        "seconds": float,
        "seed": int,
        "model": dict,
        "safety": dict,
        "dataset": dict,
        "versions": dict,
        "command": str,
        "epsilon_curve": list,
        "seal": str,
    }
    assert {name: type(value) for name, value in summary.items()} == types
    assert summary["protocol"] == "pgd_restarts"
    assert summary["threat_model"] == {"norm": "linf", "epsilon": EPSILON}
    assert summary["epsilon_in_model_units"] == [EPSILON]
    assert summary["mode"] == "mean"
    assert summary["num_examples"] == 60
    assert summary["logit_scale"] == 1.0
    assert summary["seed"] == 0
    assert summary["command"] == "python -m planted"
    assert summary["epsilon_curve"] == []
    assert summary["dataset"] == {
        "name": "digits",
        "split": "test",
        "description": "scikit-learn digits",
    }
    model = runs.digits_model("vib")
    assert summary["model"]["path"] == model
    assert summary["model"]["metadata"] == export.read_metadata(model)
    assert len(summary["model"]["sha256"]) == 64
    assert summary["versions"] == export.describe_versions()


def test_each_stage_has_all_fields_of_their_types(finished):
    summary, _ = read(finished)
    types = {
        "name": str,
        "attack": dict,
        "num_targets": type(None),
        "num_restarts": int,
        "robust_accuracy": float,
        "num_attacked": int,
        "num_broken": int,
        "gradient_evaluations": int,
        "seconds": float,
        "restart_curve": list,
        "gradient_curve": list,
    }
    assert [stage["name"] for stage in summary["stages"]] == ["fgs", "pgd"]
    for stage in summary["stages"]:
        assert {name: type(value) for name, value in stage.items()} == types
    config = two_stages()["stages"]
    for stage in summary["stages"]:
        assert stage["attack"] == config[stage["name"]]["attack"]


def test_the_examples_have_all_fields_of_their_types(finished):
    _, examples = read(finished)
    types = {
        "index": "int64",
        "label": "int32",
        "clean_prediction": "int32",
        "is_robust": "bool",
        "adversarial_prediction": "int32",
        "margin": "float32",
        "wrong_share": "float32",
        "broken_by_stage": "int32",
        "broken_by_restart": "int32",
        "broken_by_target": "int32",
        "broken_at_step": "int32",
        "gradient_evaluations": "int64",
        "adversarial_images": "float32",
    }
    assert {name: str(examples[name].dtype) for name in types} == types
    for name, array in examples.items():
        image = (8, 8, 1) if name == "adversarial_images" else ()
        assert array.shape == (60, *image), name
    np.testing.assert_array_equal(examples["index"], np.arange(60))
    np.testing.assert_array_equal(examples["label"], clean_examples(60)[1])


def test_every_image_is_in_the_ball_and_in_the_box(finished):
    _, examples = read(finished)
    images = np.float64(examples["adversarial_images"])
    clean = np.float64(clean_examples(60)[0])
    assert np.abs(images - clean).max() <= EPSILON + 1e-6
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    broken = examples["broken_by_stage"] >= 0
    moved = np.abs(images - clean).max(axis=(1, 2, 3))
    assert (moved[broken] > 0.01).all()


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_the_reloaded_model_says_what_the_examples_say(finished, batch_size):
    """In another batch size: the broken are misclassified, and no other."""
    _, examples = read(finished)
    loaded = tf.saved_model.load(runs.digits_model("vib"))
    logits = np.concatenate(
        [
            loaded.mean(examples["adversarial_images"][i : i + batch_size])
            for i in range(0, 60, batch_size)
        ]
    )
    predictions = logits.argmax(-1)
    np.testing.assert_array_equal(
        predictions, examples["adversarial_prediction"]
    )
    is_wrong = predictions != examples["label"]
    np.testing.assert_array_equal(is_wrong, ~examples["is_robust"])
    rows = np.arange(60)
    own = logits[rows, examples["label"]]
    logits[rows, examples["label"]] = -np.inf
    np.testing.assert_allclose(
        examples["margin"], logits.max(-1) - own, atol=1e-4
    )


def test_an_example_that_was_wrong_before_is_not_attacked(finished):
    summary, examples = read(finished)
    loaded = tf.saved_model.load(runs.digits_model("vib"))
    images, labels = clean_examples(60)
    predictions = loaded.mean(images).numpy().argmax(-1)
    np.testing.assert_array_equal(examples["clean_prediction"], predictions)
    is_wrong = predictions != labels
    assert 0 < is_wrong.sum() < 30
    assert summary["clean_accuracy"] == np.mean(~is_wrong)
    assert not examples["is_robust"][is_wrong].any()
    assert (examples["gradient_evaluations"][is_wrong] == 0).all()
    assert (examples["broken_by_stage"][is_wrong] == -1).all()
    assert (examples["gradient_evaluations"][~is_wrong] > 0).all()
    np.testing.assert_array_equal(
        examples["adversarial_images"][is_wrong], images[is_wrong]
    )


def test_the_accuracies_are_counted_from_the_examples(finished):
    summary, examples = read(finished)
    count = examples["is_robust"].sum()
    assert 5 < count < 50
    assert summary["robust_accuracy"] == count / 60
    low, high = summary["robust_accuracy_ci95"]
    assert (low, high) == statistics.wilson_interval(int(count), 60)
    assert low < count / 60 < high
    assert summary["stages"][-1]["robust_accuracy"] == count / 60
    assert summary["expected_accuracy"] == pytest.approx(
        1 - examples["wrong_share"].mean()
    )
    # Without noise an image is wrong always or never.
    np.testing.assert_array_equal(
        examples["wrong_share"], ~examples["is_robust"]
    )


def test_the_stages_are_counted_from_the_examples(finished):
    summary, examples = read(finished)
    robust = examples["clean_prediction"] == examples["label"]
    for index, stage in enumerate(summary["stages"]):
        assert stage["num_attacked"] == robust.sum()
        broken = examples["broken_by_stage"] == index
        assert stage["num_broken"] == broken.sum() > 0
        assert (robust[broken]).all()
        for restart, share in enumerate(stage["restart_curve"]):
            until = broken & (examples["broken_by_restart"] <= restart)
            assert share == (robust & ~until).mean()
        robust &= ~broken
        assert stage["robust_accuracy"] == robust.mean()
        assert len(stage["restart_curve"]) == stage["num_restarts"]
    np.testing.assert_array_equal(robust, examples["is_robust"])
    was_broken = examples["broken_by_stage"] >= 0
    for name in ("broken_by_restart", "broken_at_step"):
        assert (examples[name][was_broken] >= 0).all()
        assert (examples[name][~was_broken] == -1).all()
    assert (examples["broken_by_target"] == -1).all()


def test_the_cost_is_the_sum_of_what_each_example_cost(finished):
    summary, examples = read(finished)
    total = examples["gradient_evaluations"].sum()
    assert summary["gradient_evaluations"] == total
    stages = summary["stages"]
    assert sum(stage["gradient_evaluations"] for stage in stages) == total
    for stage in stages:
        assert stage["gradient_curve"][-1] == stage["gradient_evaluations"]
        assert stage["gradient_curve"] == sorted(stage["gradient_curve"])
    # FGS takes one; PGD takes eight in each of three restarts.
    robust = examples["is_robust"]
    assert (examples["gradient_evaluations"][robust] == 1 + 3 * 8).all()
    assert summary["seconds"] == pytest.approx(
        sum(stage["seconds"] for stage in stages), abs=1e-3
    )
    assert summary["seconds"] > 0


def test_a_finished_audit_has_nothing_left_to_do(finished, capsys):
    before = runs.snapshot(finished)
    config = two_stages()
    summary = runner.audit(config, runs.digits_model("vib"), str(finished))
    assert "Nothing left to do" in capsys.readouterr().out
    assert summary == read(finished)[0]
    assert runs.snapshot(finished) == before


def test_the_folder_records_the_last_set_of_diagnostics(finished, tmp_path):
    """As where an audit was stopped in its diagnostics, and ended without."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    path = copy / "config.json"
    stored = json.loads(path.read_text())
    stored["audit"]["diagnostics"]["set"] = "quick"
    path.write_text(json.dumps(stored))
    audit(two_stages(), copy)
    stored = json.loads(path.read_text())
    assert stored["audit"]["diagnostics"]["set"] == "none"
    assert verify.verify(str(copy)).ok


def test_the_plan_is_the_most_that_it_can_cost(finished):
    rows = runner.plan(two_stages(), runs.digits_model("vib"))
    most = {row["stage"]: row["gradients"] for row in rows}
    assert most == {"fgs": 60, "pgd": 60 * 3 * 8}
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["epsilon"] == EPSILON for row in rows)
    assert not any(row["queries"] for row in rows)


def test_the_plan_counts_the_queries_of_attacks_without_gradients():
    config = two_stages()
    attack = {"name": "square", "num_steps": 30}
    config["stages"] = {"square": {"num_restarts": 2, "attack": attack}}
    (row,) = runner.plan(config, runs.digits_model("vib"))
    assert (row["gradients"], row["queries"]) == (0, 60 * 2 * 30)
    assert row["targets"] == 1
    assert row["seconds"] > 0


# Stopped, killed, disk full: then the same again.


class Parts:
    """What an audit is made of, compiled once for many runs."""

    def __init__(self, config, model=None):
        self.config = config
        model = model or runs.digits_model("vib")
        self.subject = subjects.load(config, model)
        self.stages = protocol.build_stages(config)
        self.runner = protocol.build_runner(config, self.subject, self.stages)

    def run(self, folder, should_stop=lambda: False, quiet=True):
        return radius.Audit(
            self.config,
            self.subject,
            self.stages,
            self.runner,
            str(folder),
            quiet,
        ).run(should_stop)


@pytest.fixture(scope="module")
def parts():
    """24 digits in batches of 8: FGS, then two runs of PGD."""
    changes = {
        "num_examples": 24,
        "batch_size": 8,
        "stages.pgd.num_restarts": 2,
        "stages.pgd.attack.num_steps": 4,
        "stages.pgd.attack.step_size": 0.06,
    }
    return Parts(two_stages(**changes))


@pytest.fixture(scope="module")
def reference(parts, tmp_path_factory):
    """The folder of an audit of these parts that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    parts.run(folder)
    examples = read(folder)[1]
    assert set(examples["broken_by_stage"]) == {-1, 0, 1}
    return folder


def but_for_the_clock(summary):
    """What two runs of one audit agree on."""
    summary = {
        name: value
        for name, value in summary.items()
        if name not in ("command", "seal", "seconds")
    }
    summary["stages"] = [
        {name: value for name, value in stage.items() if name != "seconds"}
        for stage in summary["stages"]
    ]
    return summary


def assert_same_audit(folder, reference):
    """Equal examples, an equal summary but for times, and no progress file."""
    both = (pathlib.Path(f) / "examples.npz" for f in (folder, reference))
    ours, theirs = (path.read_bytes() for path in both)
    assert ours == theirs
    ours, theirs = (but_for_the_clock(read(f)[0]) for f in (folder, reference))
    assert ours == theirs
    assert not (pathlib.Path(folder) / "partial.npz").exists()


def test_the_same_audit_gives_the_same_file(parts, reference, tmp_path):
    parts.run(tmp_path)
    assert_same_audit(tmp_path, reference)


def test_an_audit_may_be_stopped_after_any_batch(parts, reference, tmp_path):
    """After the clean images, and after every batch of every restart."""
    for batch in range(1, 100):
        folder = tmp_path / str(batch)
        clock = runs.Clock(batch)
        try:
            parts.run(folder, clock)
        except Interrupted as error:
            assert "the same command resumes there" in str(error)
            assert sorted(os.listdir(folder)) == ["partial.npz"]
            parts.run(folder)
        else:
            break
        assert_same_audit(folder, reference)
    assert clock.asked == batch - 1 >= 7


def test_an_audit_may_be_stopped_again_and_again(parts, reference, tmp_path):
    num_stops = 0
    while True:
        try:
            parts.run(tmp_path, runs.Clock(2))
        except Interrupted:
            num_stops += 1
        else:
            break
    assert num_stops >= 3
    assert_same_audit(tmp_path, reference)


@pytest.fixture
def eager_to_save(monkeypatch):
    """Progress is saved after every batch, not every few seconds."""
    monkeypatch.setattr(radius.Audit, "_save_every", lambda self: -1.0)


@pytest.mark.parametrize("half", [False, True], ids=["nothing", "half"])
def test_a_kill_at_any_change_of_the_disk_loses_nothing(
    parts, reference, tmp_path, monkeypatch, eager_to_save, half
):
    for at in range(1, 200):
        folder = tmp_path / str(at)
        disk = runs.DyingDisk(tf.io.gfile, at, half)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            try:
                parts.run(folder)
            except runs.Killed:
                pass
        if not disk.is_dead:
            break
        parts.run(folder)
        assert_same_audit(folder, reference)
    assert at >= (9 if half else 20)


@pytest.mark.parametrize(
    "fault",
    [
        OSError(28, "No space left on device"),
        tf.errors.PermissionDeniedError(None, None, "Read-only file system"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_full_or_read_only_disk_is_one_clear_error(
    parts, reference, tmp_path, monkeypatch, eager_to_save, fault
):
    num_faults = 0
    for at in range(1, 200, 4):
        folder = tmp_path / str(at)
        disk = runs.DyingDisk(tf.io.gfile, at, error=fault)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            try:
                parts.run(folder)
            except UserError as error:
                assert error.what.startswith("Cannot ")
                assert "\n" not in str(error)
                num_faults += 1
        if disk.num_changes < at:
            break
        parts.run(folder)
        assert_same_audit(folder, reference)
    assert num_faults >= 5


def test_damaged_progress_is_restarted_with_a_message(
    parts, reference, tmp_path, capsys
):
    with pytest.raises(Interrupted):
        parts.run(tmp_path, runs.Clock(5))
    partial = tmp_path / "partial.npz"
    partial.write_bytes(partial.read_bytes()[:-50])
    parts.run(tmp_path, quiet=False)
    assert "Starting again" in capsys.readouterr().out
    assert_same_audit(tmp_path, reference)


def test_a_digit_changed_in_a_summary_is_noticed(parts, tmp_path):
    """Where the attacks are over and the diagnostics are not."""
    parts.run(tmp_path)
    path = tmp_path / "summary.json"
    before = path.read_text()
    number = str(json.loads(before)["robust_accuracy"])
    path.write_text(before.replace(number, "0.875"))
    with pytest.raises(UserError, match="content is not what its seal is of"):
        parts.run(tmp_path)
    path.write_text(before)
    parts.run(tmp_path)


def test_progress_of_other_arrays_is_restarted(parts, reference, tmp_path):
    """As an older version of the library may have left them."""
    for arrays in ({"label": np.zeros(24)}, {"state.json": np.zeros(3)}):
        files.write_npz(tmp_path / "partial.npz", arrays)
        parts.run(tmp_path)
        assert_same_audit(tmp_path, reference)
        (tmp_path / "summary.json").unlink()


def test_progress_of_another_audit_is_refused(parts, tmp_path):
    with pytest.raises(Interrupted):
        parts.run(tmp_path, runs.Clock(2))
    partial = files.read_npz(tmp_path / "partial.npz")
    state = json.loads(partial["state.json"].tobytes())
    state["identity"]["num_examples"] = 20
    text = json.dumps(state).encode()
    partial["state.json"] = np.frombuffer(text, np.uint8)
    files.write_npz(tmp_path / "partial.npz", partial)
    before = runs.snapshot(tmp_path)
    error = runs.refused(parts.run, tmp_path)
    assert error.what == "The workdir holds the progress of another audit"
    assert "'num_examples': 20" in error.received
    assert "'num_examples': 24" in error.expected
    assert runs.snapshot(tmp_path) == before


# Runs the audit of a command line: model, workdir, config, seconds to wait. The
# progress is saved after every batch, then the process waits to be killed.
DRIVER = """
import json, sys, time
from ib_keras.audit import radius
from ib_keras.audit import runner

model, workdir, config, wait = sys.argv[1:]
save = radius.Audit._save

def save_and_wait(self, progress):
    save(self, progress)
    print("saved", flush=True)
    time.sleep(float(wait))

radius.Audit._save = save_and_wait
radius.Audit._save_every = lambda self: -1.0
runner.audit(json.load(open(config)), model, workdir, quiet=True)
"""


@pytest.mark.commands
def test_a_killed_process_resumes_where_it_was(tmp_path, finished):
    """SIGKILL half-way, and the same command: the same file as without."""
    config, workdir = tmp_path / "config.json", tmp_path / "audit"
    config.write_text(json.dumps(two_stages()))
    given = (runs.digits_model("vib"), workdir, config)
    process = runs.Process(*given, 0.05, code=DRIVER)
    process.wait_for(lambda: process.read("output").count("saved") >= 7)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with np.load(workdir / "partial.npz") as partial:
        spent = partial["gradient_evaluations"].sum()
    assert 0 < spent < read(finished)[1]["gradient_evaluations"].sum()
    assert not (workdir / "examples.npz").exists()
    process = runs.Process(*given, 0.0, code=DRIVER)
    assert process.wait() == 0, process.read("errors")
    # It did not begin again: fewer batches than a whole audit has.
    assert process.read("output").count("saved") < 12
    assert_same_audit(workdir, finished)


# Several radii.


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    """FGS at three radii; the workdir, stopped within the second of them."""
    workdir = tmp_path_factory.mktemp("curve")
    config = curve_config()
    with pytest.raises(Interrupted):
        audit(config, workdir, should_stop=runs.Clock(8))
    assert (workdir / "epsilon_0.05" / "summary.json").exists()
    assert (workdir / "epsilon_0.2" / "partial.npz").exists()
    audit(config, workdir)
    return workdir


def curve_config():
    return runs.audit_config("fgs_epsilons", epsilon_curve=[0.2, 0.1, 0.05])


def test_each_radius_of_a_curve_has_its_folder(curve):
    assert sorted(os.listdir(curve)) == [
        "config.json",
        "epsilon_0.05",
        "epsilon_0.2",
        "examples.npz",
        "safety.json",
        "summary.json",
    ]
    clean = clean_examples(60)[0]
    for epsilon in (0.05, 0.1, 0.2):
        name = "" if epsilon == 0.1 else f"epsilon_{epsilon}"
        summary, examples = read(curve / name)
        assert summary["threat_model"]["epsilon"] == epsilon
        assert summary["robust_accuracy"] == examples["is_robust"].mean()
        assert "partial.npz" not in os.listdir(curve / name)
        moved = np.abs(examples["adversarial_images"] - clean)
        assert epsilon - 1e-6 < moved.max() <= epsilon + 1e-6


def test_the_curve_gathers_the_radii_in_order(curve):
    summary, _ = read(curve)
    folders = (curve / "epsilon_0.05", curve, curve / "epsilon_0.2")
    parts = [read(folder)[0] for folder in folders]
    assert [point["epsilon"] for point in summary["epsilon_curve"]] == [
        part["threat_model"]["epsilon"] for part in parts
    ]
    for point, part in zip(summary["epsilon_curve"], parts, strict=True):
        for name in ("robust_accuracy", "robust_accuracy_ci95"):
            assert point[name] == part[name]
    accuracies = [part["robust_accuracy"] for part in parts]
    assert accuracies[0] > accuracies[2]
    assert [part["epsilon_curve"] for part in parts[::2]] == [[], []]


def test_a_radius_of_a_curve_is_an_audit_like_any_other(curve, tmp_path):
    """Interruptions, and the radii beside it, change no bit."""
    config = runs.audit_config("fgs_epsilons", epsilon_curve=[])
    config["threat_model"]["epsilon"] = 0.2
    audit(config, tmp_path)
    ours = (tmp_path / "examples.npz").read_bytes()
    assert ours == (curve / "epsilon_0.2" / "examples.npz").read_bytes()


def test_radii_that_differ_in_the_seventh_digit_have_their_own_folders(
    tmp_path,
):
    config = runs.audit_config(
        "fgs_epsilons", num_examples=8, epsilon_curve=[0.2, 0.20000001]
    )
    audit(config, tmp_path)
    points = read(tmp_path)[0]["epsilon_curve"]
    assert [point["epsilon"] for point in points] == [0.1, 0.2, 0.20000001]
    folders = [name for name in os.listdir(tmp_path) if "epsilon_" in name]
    assert sorted(folders) == ["epsilon_0.2", "epsilon_0.20000001"]


# Stochastic mode.


@pytest.fixture(scope="module")
def noisy_parts():
    return Parts(noisy_config())


@pytest.fixture(scope="module")
def noisy(noisy_parts, tmp_path_factory):
    """The folder of a stochastic audit that was stopped twice."""
    folder = tmp_path_factory.mktemp("noisy")
    for batch in (3, 2):
        with pytest.raises(Interrupted):
            noisy_parts.run(folder, runs.Clock(batch))
    noisy_parts.run(folder)
    return folder


def noisy_config():
    return runs.audit_config(mode="stochastic", num_examples=40)


def test_stochastic_mode_takes_the_models_number_of_samples(noisy):
    summary, examples = read(noisy)
    assert summary["mode"] == "stochastic"
    assert summary["num_samples"] == 4
    assert summary["num_judge_samples"] == 5
    assert summary["robust_accuracy"] == examples["is_robust"].mean()
    assert 0 < examples["is_robust"].sum() < 35
    assert summary["expected_accuracy"] == pytest.approx(
        1 - examples["wrong_share"].mean()
    )
    assert summary["num_final_draws"] == 25
    counts = examples["wrong_share"] * 25
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)


def test_stochastic_mode_resumes_bit_for_bit(noisy_parts, noisy, tmp_path):
    noisy_parts.run(tmp_path)
    assert_same_audit(tmp_path, noisy)


def test_what_stochastic_mode_breaks_is_wrong_on_fresh_noise(noisy):
    """On 40 draws that no audit has seen, most are wrong most of the time."""
    _, examples = read(noisy)
    loaded = tf.saved_model.load(runs.digits_model("vib"))
    images = tf.constant(examples["adversarial_images"])
    wrong = np.mean(
        [
            loaded.stochastic(images, tf.constant([9, i]), 4).numpy().argmax(-1)
            != examples["label"]
            for i in range(40)
        ],
        axis=0,
    )
    broken = examples["broken_by_stage"] >= 0
    assert broken.sum() >= 5
    assert wrong[broken].mean() > 0.7
    assert wrong[examples["is_robust"]].mean() < 0.3
    # The last look is fair: on the average it agrees with ours.
    assert abs(wrong.mean() - examples["wrong_share"].mean()) < 0.1


def test_the_numbers_of_samples_can_be_chosen():
    config = runs.audit_config(
        mode="stochastic", num_samples=2, num_judge_samples=3, num_examples=4
    )
    subject = subjects.load(config, runs.digits_model("vib"))
    assert (subject.num_samples, subject.num_judge_samples) == (2, 3)
    images = tf.constant(subject.images)
    seed = tf.constant([1, 2])
    np.testing.assert_array_equal(
        subject.logits_fn(images, seed),
        subject.model.loaded.stochastic(images, seed, tf.constant(2)),
    )


# Models of others.


def random_config(**changes):
    """An audit of 48 random images of two classes, 4x4."""
    return runs.audit_config(num_examples=48, batch_size=20, **changes)


def test_nan_is_never_recorded_as_broken(tmp_path):
    """NaN wherever an attack darkens or brightens an image by 0.02."""

    def logits(images):
        # Clean pixels are whole 255ths; what an attack moves is not.
        rest = tf.abs(images * 255 - tf.round(images * 255))
        moved = tf.reduce_max(rest, axis=[1, 2, 3])[:, None] > 1e-3
        return tf.where(moved, np.nan, runs.bright_or_dark(images) * 0.001)

    model = runs.foreign_model(tmp_path / "model", mean=logits)
    summary = audit(random_config(), tmp_path / "audit", model)
    _, examples = read(tmp_path / "audit")
    right = examples["clean_prediction"] == examples["label"]
    assert 5 < right.sum() < 48
    np.testing.assert_array_equal(examples["is_robust"], right)
    assert (examples["broken_by_stage"] == -1).all()
    assert (examples["num_nonfinite"][right] > 0).all()
    assert summary["num_nonfinite_examples"] == right.sum()
    assert summary["robust_accuracy"] == summary["clean_accuracy"]


def test_an_example_without_a_finite_answer_is_neither_right_nor_broken(
    tmp_path,
):
    def logits(images):
        is_dark = tf.reduce_mean(images, [1, 2, 3])[:, None] < 0.5
        return tf.where(is_dark, np.nan, runs.bright_or_dark(images))

    model = runs.foreign_model(tmp_path / "model", mean=logits)
    audit(random_config(), tmp_path / "audit", model)
    _, examples = read(tmp_path / "audit")
    silent = examples["clean_prediction"] == -1
    assert 5 < silent.sum() < 43
    assert not examples["is_robust"][silent].any()
    assert (examples["broken_by_stage"][silent] == -1).all()
    assert (examples["gradient_evaluations"][silent] == 0).all()
    assert (examples["wrong_share"][silent] == 1).all()


def test_a_model_without_gradients_can_be_attacked_without(tmp_path):
    model = runs.foreign_model(
        tmp_path / "model",
        mean=lambda x: runs.bright_or_dark(tf.round(x * 8) / 8),
    )
    stages = {
        "noise": {
            "num_restarts": 2,
            "attack": {"name": "uniform_noise", "num_steps": 5},
        }
    }
    summary = audit(random_config(stages=stages), tmp_path / "audit", model)
    assert summary["gradient_evaluations"] == 0
    assert summary["robust_accuracy"] <= summary["clean_accuracy"]


# What is refused, before anything is written.


def pgd_attack(**arguments):
    return {"stages": {"pgd": {"num_restarts": 1, "attack": arguments}}}


REFUSED = {
    "an unknown field": ({"num_exampels": 3}, "num_exampels", "num_examples"),
    "an unknown field of a section": (
        {"threat_model.epsilom": 0.1},
        "threat_model.epsilom",
        "threat_model.epsilon",
    ),
    "an unknown field of a stage": (
        {"stages.pgd.num_restart": 50},
        "stages.pgd.num_restart",
        "stages.pgd.num_restarts",
    ),
    "an unknown attack": (pgd_attack(name="pdg"), '"pdg"', '"pgd"'),
    "an unknown argument of an attack": (
        pgd_attack(name="pgd", num_step=3),
        '"num_step"',
        '"num_steps"',
    ),
    "an unknown loss": (
        pgd_attack(name="pgd", loss="cross_entrop"),
        '"cross_entrop"',
        '"cross_entropy"',
    ),
    "no stages": ({"stages": {}}, "stages={}", "at least one"),
    "an unknown mode": ({"mode": "stochastik"}, "stochastik", "stochastic"),
    "an unknown norm": ({"threat_model.norm": "inf"}, '"inf"', "linf"),
    "a negative radius": ({"threat_model.epsilon": -0.1}, "-0.1", "0 or more"),
    "a radius of 8-bit units": ({"threat_model.epsilon": 8}, "8", "0.0313725"),
    "a radius that is NaN": ({"threat_model.epsilon": math.nan}, "nan", "0 or"),
    "a bad radius of a curve": ({"epsilon_curve": [0.1, -1]}, "-1", "0 or"),
    "too many examples": ({"num_examples": 360}, "360", "359"),
    "no examples": ({"num_examples": 0}, "0", "1 or more"),
    "no batch": ({"batch_size": 0}, "0", "1 or more"),
    "no step in a chunk": ({"chunk_steps": 0}, "0", "1 or more"),
    "no restart": ({"stages.pgd.num_restarts": 0}, "0", "1 or more"),
    "no sample": (
        {"mode": "stochastic", "num_samples": 0},
        "0",
        "1 or more",
    ),
    "no judge": ({"num_judge_samples": 0}, "0", "1 or more"),
    "an unknown set of diagnostics": (
        {"diagnostics.set": "qiuck"},
        "qiuck",
        "quick",
    ),
    "no example to diagnose": (
        {"diagnostics.num_examples": 0},
        "0",
        "1 or more",
    ),
    "a baseline that is not there": (
        {"diagnostics.twin": "/nowhere/twin"},
        "/nowhere/twin",
        "saved_model.pb",
    ),
    "a data set of another shape": (
        {"dataset.name": "random_images"},
        "(28, 28, 1)",
        "(8, 8, 1)",
    ),
}


@pytest.mark.parametrize(
    ("changes", "received", "helps"), REFUSED.values(), ids=REFUSED.keys()
)
def test_a_config_that_cannot_be_used_is_refused(
    tmp_path, changes, received, helps
):
    config = runs.audit_config(**changes)
    error = runs.refused(audit, config, tmp_path / "audit")
    assert received in str(error.received)
    assert helps in f"{error.expected} {error.fix}"
    assert error.exit_status == 2
    assert os.listdir(tmp_path) == []


def test_one_draw_is_no_judgement_on_a_model_with_noise(tmp_path):
    config = runs.audit_config(mode="stochastic", num_judge_samples=1)
    error = runs.refused(
        audit, config, tmp_path / "audit", runs.digits_model("vib")
    )
    assert "num_judge_samples=1" in error.received
    assert os.listdir(tmp_path) == []


def test_an_unknown_attack_lists_all_there_are(tmp_path):
    config = runs.audit_config(**pgd_attack(name="pdg"))
    error = runs.refused(audit, config, tmp_path / "audit")
    for name in ("fgs", "pgd", "apgd", "multi_targeted", "square"):
        assert name in error.expected


@pytest.mark.parametrize("field", ["stages", "threat_model", "seed", "mode"])
def test_a_config_without_a_field_is_refused(tmp_path, field):
    config = runs.audit_config()
    del config[field]
    error = runs.refused(audit, config, tmp_path / "audit")
    assert error.expected == f"also {field}"
    assert os.listdir(tmp_path) == []


MODELS = {
    "no gradient": (
        {"mean": lambda x: runs.bright_or_dark(tf.round(x))},
        "no gradient",
    ),
    "a stopped gradient": (
        {"mean": lambda x: runs.bright_or_dark(tf.stop_gradient(x))},
        "no gradient",
    ),
    "no endpoint": ({}, "no function to call"),
    "NaN": (
        {"mean": lambda x: runs.bright_or_dark(x) * np.nan},
        "not finite on any clean image",
    ),
    "fewer logits than classes": (
        {"mean": lambda x: {"z": runs.bright_or_dark(x)[0]}},
        "not one row of scores per image",
    ),
}


@pytest.mark.parametrize(
    ("endpoints", "words"), MODELS.values(), ids=MODELS.keys()
)
def test_a_model_that_cannot_be_audited_is_refused(tmp_path, endpoints, words):
    """A workdir that is not there stays so, and an empty one stays empty."""
    model = runs.foreign_model(tmp_path / "model", **endpoints)
    (tmp_path / "empty").mkdir()
    before = runs.snapshot(tmp_path)
    for workdir in ("empty", "absent"):
        error = runs.refused(audit, random_config(), tmp_path / workdir, model)
        assert words in error.what
        assert runs.snapshot(tmp_path) == before


def test_a_deterministic_model_has_no_stochastic_audit(tmp_path):
    config = runs.audit_config(mode="stochastic")
    model = runs.digits_model("deterministic")
    error = runs.refused(audit, config, tmp_path / "audit", model)
    assert error.received == f"{model} with mean"
    assert os.listdir(tmp_path) == []


def test_a_workdir_of_another_config_is_refused(finished):
    before = runs.snapshot(finished)
    for name, value, was in (
        ("threat_model.epsilon", 0.2, 0.1),
        ("stages.pgd.num_restarts", 1, 3),
        ("seed", 5, 0),
    ):
        config = two_stages(**{name: value})
        error = runs.refused(audit, config, finished)
        assert error.received == f"audit.{name}={value}"
        assert error.expected.startswith(f"audit.{name}={was}, as in ")
        assert runs.snapshot(finished) == before


def test_a_workdir_of_another_model_is_refused(finished):
    before = runs.snapshot(finished)
    model = runs.digits_model("deterministic")
    error = runs.refused(audit, two_stages(), finished, model)
    assert error.received.startswith("model_sha256=")
    assert runs.snapshot(finished) == before


def test_another_path_of_the_data_is_no_other_config(finished):
    config = two_stages(**{"dataset.download": False})
    assert audit(config, finished) == read(finished)[0]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_is_one_clear_error_in_an_audit(tmp_path, monkeypatch, at):
    """The folder, its config, and the config's rename."""
    fault = OSError(30, "Read-only file system")
    disk = runs.DyingDisk(tf.io.gfile, at, error=fault)
    monkeypatch.setattr(files, "gfile", disk)
    error = runs.refused(audit, runs.audit_config(), tmp_path / "audit")
    monkeypatch.undo()
    assert "Read-only file system" in error.received
    assert "change its permissions" in error.fix
    assert not (tmp_path / "audit" / "config.json").exists()


def test_the_attack_runner_alone_gives_what_the_audit_gives(finished):
    """The loop of the attacks alone, by hand, on the same examples."""
    _, examples = read(finished)
    loaded = tf.saved_model.load(runs.digits_model("vib"))
    images, labels = clean_examples(60)
    arguments = two_stages()["stages"]["fgs"]["attack"] | {"attack": "fgs"}
    arguments.pop("name")
    ledger = attack_runner.run(
        loaded.mean,
        images,
        labels,
        **arguments,
        epsilon=EPSILON,
        batch_size=16,
    )
    broken_first = examples["broken_by_stage"] == 0
    np.testing.assert_array_equal(ledger.broken_by_stage == 0, broken_first)
