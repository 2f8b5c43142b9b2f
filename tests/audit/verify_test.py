"""An audit folder that was touched is caught, and what was touched is named."""

import ast
import inspect
import json
import pathlib
import shutil
import types

import numpy as np
import pytest

from ib_keras import files
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects_module
from ib_keras.audit import verdict
from ib_keras.audit import verify
from ib_keras.audit.verify import claims
from ib_keras.audit.verify import provenance
from ib_keras.audit.verify import rescoring
from ib_keras.audit.verify import tallies
from tests.support import runs


@pytest.fixture(autouse=True, scope="module")
def loaded_once():
    """Model and data are loaded once for equal configs: it saves time."""
    load, subjects = subjects_module.load, {}

    def cached(config, saved_model, *arguments, **more):
        read = {k: v for k, v in config.items() if k != "threat_model"}
        key = json.dumps([read, saved_model])
        if key not in subjects:
            subjects[key] = load(config, saved_model, *arguments, **more)
        return subjects[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects_module, "load", cached)
        yield


def two_stages(**changes):
    """FGS, then PGD with two restarts on robust examples."""
    stages = runs.audit_config("fgs_epsilons")["stages"]
    changes = {
        "num_examples": 40,
        "stages.pgd.num_restarts": 2,
        "stages.pgd.attack.num_steps": 5,
        "stages.pgd.attack.step_size": 0.05,
    } | changes
    config = runs.audit_config(**changes)
    config["stages"] = stages | config["stages"]
    return config


def audited(tmp_path_factory, name, config):
    folder = str(tmp_path_factory.mktemp(name))
    runner.audit(config, runs.digits_model("vib"), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """An audit of 40 digits by two stages; read only."""
    return audited(tmp_path_factory, "honest", two_stages())


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A stochastic audit of 24 digits; read only."""
    config = two_stages(mode="stochastic", num_examples=24)
    return audited(tmp_path_factory, "noisy", config)


def all_hold(folder, **more):
    before = runs.snapshot(folder)
    found = verify.verify(folder, **more)
    assert runs.snapshot(folder) == before
    wrong = [f"{c.name}: {c.sentence}" for c in found.checks if not c.ok]
    assert found.ok, wrong
    assert wrong == [] and found.failed == ()
    json.dumps(found.to_json(), allow_nan=False)
    return found


# Untouched audits pass.


def test_an_honest_audit_passes(honest):
    names = [check.name for check in all_hold(honest).checks]
    assert len(names) == len(set(names)) > 18


def test_data_of_ones_own_may_be_called_something_else(tmp_path_factory):
    config = two_stages(**{"num_examples": 8})
    config["dataset"]["name"] = "tests.support.own_data"
    folder = audited(tmp_path_factory, "own", config)
    all_hold(folder)
    summary = files.read_json(f"{folder}/summary.json")
    assert summary["dataset"]["name"] == "my digits"


@pytest.mark.parametrize(
    ("asked", "said", "is_right"),
    [
        ({"name": "npz:x.npz"}, "npz", True),
        ({"name": "npz", "path": "x.npz"}, "npz", True),
        ({"name": "tfds:kmnist"}, "tfds:kmnist", True),
        ({"name": "tfds", "tfds_name": "kmnist"}, "tfds:kmnist", True),
        ({"name": "tfds:kmnist"}, "tfds:mnist", False),
        ({"name": "mnist"}, "tfds:mnist", False),
        ({"name": "my.module"}, "anything", True),
        ({"name": None}, "anything", True),
    ],
)
def test_a_name_of_data_is_the_one_asked_for(asked, said, is_right):
    split = {"split": "test"}
    found = claims._data({"name": said, **split}, {**asked, **split})
    assert (found == []) == is_right
    found = claims._data({"name": said, "split": "train"}, {**asked, **split})
    assert "dataset.split" in found[-1]


def test_an_audit_of_version_0_1_passes(tmp_path_factory):
    """It says nothing of preprocessing, neither asked for nor found."""
    folder = audited(tmp_path_factory, "old", two_stages(num_examples=8))
    path = pathlib.Path(folder, "summary.json")
    summary = json.loads(path.read_text())
    del summary["model"]["preprocessing"], summary["epsilon_in_model_units"]
    for stage in summary["stages"]:
        del stage["num_targets"]
    path.write_text(json.dumps(summary))
    path = pathlib.Path(folder, "config.json")
    config = json.loads(path.read_text())
    config["audit"]["model"].pop("preprocessing", None)
    path.write_text(json.dumps(config))
    all_hold(folder)


def test_other_batches_and_rounding_change_nothing(honest):
    for batch_size in (1, 7, 1000):
        all_hold(honest, batch_size=batch_size, tolerance=1e-5)


def test_an_l2_audit_with_other_radii_passes(tmp_path_factory):
    config = two_stages(
        **{"threat_model.norm": "l2", "threat_model.epsilon": 0.7},
        epsilon_curve=[0.3, 0.7],
    )
    folder = audited(tmp_path_factory, "l2", config)
    names = [check.name for check in all_hold(folder).checks]
    assert "epsilon_0.3/ball" in names
    assert not any(name.startswith("epsilon_0.7/") for name in names)
    # A radius is verified like the audit itself.
    part = pathlib.Path(folder, "epsilon_0.3")

    def too_far(arrays):
        clean = clean_digits()[0]
        # Towards the middle of the box, which is never out of it.
        way = 0.5 - clean
        arrays["adversarial_images"][0] = clean + way * (
            0.31 / np.linalg.norm(way)
        )

    change(part, arrays=too_far)
    assert verify.verify(folder).failed[0] == "epsilon_0.3/ball"
    shutil.rmtree(part)
    assert "epsilon_0.3/files" in verify.verify(folder).failed


@pytest.fixture(scope="module")
def curved(tmp_path_factory):
    """An audit of 16 digits at two radii; read only."""
    config = runs.audit_config(
        "fgs_epsilons", num_examples=16, epsilon_curve=[0.05, 0.1]
    )
    return audited(tmp_path_factory, "curve", config)


def a_lower_point(row):
    row["robust_accuracy"] -= 1 / 16


def a_narrow_interval_of_a_point(row):
    row["robust_accuracy_ci95"][0] += 0.01


def a_lower_restart_of_a_point(row):
    row["restart_curve"][-1] -= 1 / 16


@pytest.mark.parametrize(
    "edit, place",
    [
        (a_lower_point, 0),
        (a_lower_point, 1),
        (a_narrow_interval_of_a_point, 0),
        (a_narrow_interval_of_a_point, 1),
        # The audit's own radius has its stages for that.
        (a_lower_restart_of_a_point, 0),
    ],
)
def test_a_row_of_the_curve_is_compared_with_its_folder(
    curved, tmp_path, edit, place
):
    def alter(summary):
        edit(summary["epsilon_curve"][place])

    assert tampered(curved, tmp_path, summary=alter).failed == (
        "epsilon_curve",
    )


def test_a_folder_of_another_radius_is_noticed(curved, tmp_path):
    copy = str(tmp_path / "touched")
    shutil.copytree(curved, copy)
    all_hold(copy)
    shutil.copytree(f"{curved}/epsilon_0.05", f"{copy}/epsilon_0.07")
    assert verify.verify(copy).failed == ("folders",)


@pytest.mark.slow
def test_audits_by_many_kinds_of_attacks_pass(tmp_path_factory):
    """A targeted one and one without gradients."""
    config = runs.audit_config(num_examples=24, batch_size=24)
    section = {
        "multi_targeted": {"num_steps": 3, "num_targets": 2},
        "square": {"num_steps": 5},
    }
    config["stages"] = {
        name: {"num_restarts": 2, "attack": {"name": name, **arguments}}
        for name, arguments in section.items()
    }
    all_hold(audited(tmp_path_factory, "kinds", config))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stochastic_audit_passes_on_fresh_noise(noisy, seed):
    fresh = all_hold(noisy, seed=seed, num_draws=60).fresh[""]
    summary = files.read_json(f"{noisy}/summary.json")
    assert fresh["num_draws"] == 60
    # 24 examples, 25 recorded and 60 fresh draws each: the standard error is
    # 0.025 at most, so this is for numbers that are plainly others.
    per_draw = fresh["accuracy_per_draw"]
    assert per_draw == pytest.approx(summary["expected_accuracy"], abs=0.2)
    assert fresh["accuracy_on_every_draw"] <= per_draw
    assert fresh["gap"] == per_draw - fresh["accuracy_on_every_draw"] >= 0


# Touched ones do not.


def change(folder, arrays=None, summary=None, config=None):
    """Rewrites files of a folder by functions that edit their contents."""
    folder = pathlib.Path(folder)
    if arrays is not None:
        held = files.read_npz(str(folder / "examples.npz"))
        held = arrays(held) or held
        files.write_npz(str(folder / "examples.npz"), held)
    for name, edit in (("summary", summary), ("config", config)):
        if edit is not None:
            path = folder / f"{name}.json"
            held = json.loads(path.read_text())
            edit(held)
            path.write_text(json.dumps(held))


def tampered(folder, tmp_path, **changes):
    """Verifies a copy with these changes."""
    copy = str(tmp_path / "touched")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    change(copy, **changes)
    found = verify.verify(copy, num_draws=40)
    for check in found.checks:
        assert "\n" not in check.sentence
    return found


def a_flipped_verdict(arrays):
    arrays["is_robust"][np.flatnonzero(arrays["is_robust"])[0]] = False


def a_pixel_beyond(arrays):
    """The pixel of a broken example that moved up the most, 1/255 on."""
    row = np.flatnonzero(arrays["broken_by_stage"] >= 0)[0]
    image = arrays["adversarial_images"][row].reshape(64)
    moved = image - clean_digits()[row].reshape(64)
    # Not out of the box: it is the ball that is to be left.
    pixel = np.argmax(np.where(image < 0.9, moved, -1))
    image[pixel] += np.abs(moved).max() - moved[pixel] + 1 / 255


def clean_digits():
    from ib_keras.data import digits

    return digits.build().load("test")[0].astype(np.float32) / 255


def swapped_labels(arrays):
    label = arrays["label"]
    other = np.flatnonzero(label != label[0])[0]
    label[[0, other]] = label[[other, 0]]


def another_seed(summary):
    summary["seed"] = 1


def a_removed_stage(summary):
    del summary["stages"][1]


def a_margin_of_nan(arrays):
    arrays["margin"][3] = np.nan


def reordered(arrays):
    return {name: array[::-1] for name, array in arrays.items()}


def reordered_but_for_the_index(arrays):
    return reordered(arrays) | {"index": arrays["index"]}


def a_duplicate_index(arrays):
    arrays["index"][5] = 4


def more_robust_examples(arrays):
    robust = np.flatnonzero(arrays["is_robust"])[:2]
    more = {
        name: np.concatenate([array, array[robust]])
        for name, array in arrays.items()
    }
    return more | {"index": np.arange(len(more["index"]))}


def another_sha256(summary):
    summary["model"]["sha256"] = "0" * 64


def one_example_more(summary):
    summary["robust_accuracy"] += 1 / summary["num_examples"]


def one_clean_example_more(summary):
    summary["clean_accuracy"] += 1 / summary["num_examples"]


def a_narrow_interval(summary):
    low, high = summary["robust_accuracy_ci95"]
    summary["robust_accuracy_ci95"] = [low + 0.01, high - 0.01]


def a_better_stage(summary):
    summary["stages"][0]["num_broken"] += 1


def a_better_restart(summary):
    summary["stages"][1]["restart_curve"][0] -= 1 / summary["num_examples"]


def a_smaller_radius(summary):
    summary["threat_model"]["epsilon"] = 0.05


def a_cheaper_stage(summary):
    summary["stages"][0]["gradient_evaluations"] -= 1


def another_attack(summary):
    summary["stages"][1]["attack"]["num_steps"] = 500


def another_split(summary):
    summary["dataset"]["split"] = "train"


def no_versions(summary):
    summary["versions"] = {}


def no_stages(summary):
    del summary["stages"]


def another_class(arrays):
    broken = arrays["broken_by_stage"] >= 0
    wrong = (arrays["adversarial_prediction"] + 1) % 10
    wrong = np.where(wrong == arrays["label"], (wrong + 1) % 10, wrong)
    arrays["adversarial_prediction"][broken] = wrong[broken]


def a_moved_clean_error(arrays):
    wrong = np.flatnonzero(arrays["clean_prediction"] != arrays["label"])
    arrays["adversarial_images"][wrong[0]] *= 0.999


def a_missing_array(arrays):
    del arrays["broken_by_restart"]


def whole_numbers_as_floats(arrays):
    arrays["label"] = arrays["label"].astype(np.float32)


def robust_row(arrays):
    return np.flatnonzero(arrays["is_robust"])[0]


def broken_row(arrays):
    return np.flatnonzero(arrays["broken_by_stage"] >= 0)[0]


def a_share_of_a_robust_example(arrays):
    arrays["wrong_share"][robust_row(arrays)] = 1


def a_share_above_one(arrays):
    arrays["wrong_share"][broken_row(arrays)] = 1.5


def a_negative_share(arrays):
    arrays["wrong_share"][robust_row(arrays)] = -0.5


def a_margin_that_is_off(arrays):
    arrays["margin"][3] += 0.01


def a_target_of_a_robust_example(arrays):
    arrays["broken_by_target"][robust_row(arrays)] = 0


def a_stage_of_minus_two(arrays):
    arrays["broken_by_stage"][robust_row(arrays)] = -2


def a_step_of_a_robust_example(arrays):
    arrays["broken_at_step"][robust_row(arrays)] = 3


def a_broken_example_without_a_step(arrays):
    arrays["broken_at_step"][broken_row(arrays)] = -1


def an_attacked_clean_error(arrays):
    wrong = np.flatnonzero(arrays["clean_prediction"] != arrays["label"])
    arrays["gradient_evaluations"][wrong[0]] = 1


def a_falling_gradient_curve(summary):
    summary["stages"][1]["gradient_curve"][0] += 10**6


def a_longer_gradient_curve(summary):
    summary["stages"][1]["gradient_curve"].insert(0, 0)


def a_second_more(summary):
    summary["seconds"] += 1


def one_nonfinite_example_more(summary):
    summary["num_nonfinite_examples"] += 1


def one_zero_gradient_example_more(summary):
    summary["num_zero_gradient_examples"] += 1


def another_protocol(summary):
    summary["protocol"] = "aa_mt"


def another_protocol_version(summary):
    summary["protocol_version"] += 1


def another_mode(summary):
    summary["mode"] = "stochastic"


def a_class_more(summary):
    summary["model"]["num_classes"] += 1


def a_target_of_an_untargeted_attack(arrays):
    arrays["broken_by_target"][broken_row(arrays)] = 99


def a_step_beyond_the_last(arrays):
    arrays["broken_at_step"][broken_row(arrays)] = 10**6


def more_final_draws(summary):
    summary["num_final_draws"] = 7


def no_final_draws(summary):
    del summary["num_final_draws"]


CASES = {
    "a flipped is_robust": ({"arrays": a_flipped_verdict}, "judgements"),
    "a pixel 1/255 beyond epsilon": ({"arrays": a_pixel_beyond}, "ball"),
    "swapped labels": ({"arrays": swapped_labels}, "labels"),
    "a summary of another seed": ({"summary": another_seed}, "config"),
    "a removed stage": ({"summary": a_removed_stage}, "config"),
    "NaN in margin": ({"arrays": a_margin_of_nan}, "margins"),
    "reordered rows": ({"arrays": reordered}, "index"),
    "rows reordered under the index": (
        {"arrays": reordered_but_for_the_index},
        "labels",
    ),
    "a duplicate index": ({"arrays": a_duplicate_index}, "index"),
    "extra robust examples": ({"arrays": more_robust_examples}, "arrays"),
    "another sha256": ({"summary": another_sha256}, "model"),
    "one robust example more": ({"summary": one_example_more}, "counts"),
    "one clean example more": ({"summary": one_clean_example_more}, "counts"),
    "a narrow interval": ({"summary": a_narrow_interval}, "intervals"),
    "one broken example more": ({"summary": a_better_stage}, "stages"),
    "a better restart": ({"summary": a_better_restart}, "stages"),
    "a smaller radius": ({"summary": a_smaller_radius}, "config"),
    "a cheaper stage": ({"summary": a_cheaper_stage}, "budget"),
    "another attack": ({"summary": another_attack}, "config"),
    "another split": ({"summary": another_split}, "labels"),
    "no versions": ({"summary": no_versions}, "versions"),
    "no stages": ({"summary": no_stages}, "stages"),
    "another class": ({"arrays": another_class}, "broken_examples"),
    "a moved clean error": ({"arrays": a_moved_clean_error}, "clean_errors"),
    "a missing array": ({"arrays": a_missing_array}, "arrays"),
    "floats for labels": ({"arrays": whole_numbers_as_floats}, "arrays"),
    "a robust example's share": (
        {"arrays": a_share_of_a_robust_example},
        "wrong_shares",
    ),
    "a share above one": ({"arrays": a_share_above_one}, "judgements"),
    "a negative share": ({"arrays": a_negative_share}, "judgements"),
    "a margin that is off": ({"arrays": a_margin_that_is_off}, "margins"),
    "a robust example's target": (
        {"arrays": a_target_of_a_robust_example},
        "judgements",
    ),
    "a stage of -2": ({"arrays": a_stage_of_minus_two}, "judgements"),
    "a robust example's step": (
        {"arrays": a_step_of_a_robust_example},
        "judgements",
    ),
    "broken at no step": (
        {"arrays": a_broken_example_without_a_step},
        "judgements",
    ),
    "an attacked clean error": (
        {"arrays": an_attacked_clean_error},
        "clean_errors",
    ),
    "a falling gradient_curve": (
        {"summary": a_falling_gradient_curve},
        "stages",
    ),
    "a longer gradient_curve": ({"summary": a_longer_gradient_curve}, "stages"),
    "a second more": ({"summary": a_second_more}, "counts"),
    "one nonfinite example more": (
        {"summary": one_nonfinite_example_more},
        "counts",
    ),
    "one zero gradient example more": (
        {"summary": one_zero_gradient_example_more},
        "counts",
    ),
    "another protocol": ({"summary": another_protocol}, "config"),
    "another protocol version": (
        {"summary": another_protocol_version},
        "config",
    ),
    "another mode": ({"summary": another_mode}, "config"),
    "a class more": ({"summary": a_class_more}, "model"),
    "a target of an untargeted attack": (
        {"arrays": a_target_of_an_untargeted_attack},
        "budget",
    ),
    "a step beyond the last": ({"arrays": a_step_beyond_the_last}, "budget"),
    "more final draws": ({"summary": more_final_draws}, "draws"),
    "no final draws": ({"summary": no_final_draws}, "draws"),
}
# What else must fail where one edit breaks several claims at once.
ALONE = {
    "a summary of another seed",
    "NaN in margin",
    "a duplicate index",
    "extra robust examples",
    "another sha256",
    "one robust example more",
    "one clean example more",
    "a narrow interval",
    "a smaller radius",
    "no versions",
    "another class",
    "a margin that is off",
    "a robust example's target",
    "a stage of -2",
    "a robust example's step",
    "broken at no step",
    "a falling gradient_curve",
    "a longer gradient_curve",
    "a second more",
    "one nonfinite example more",
    "one zero gradient example more",
    "another protocol",
    "another protocol version",
    "a class more",
    "a target of an untargeted attack",
    "a step beyond the last",
    "more final draws",
    "no final draws",
}


@pytest.mark.parametrize("case", CASES)
def test_an_altered_folder_is_detected_and_named(honest, tmp_path, case):
    changes, name = CASES[case]
    failed = tampered(honest, tmp_path, **changes).failed
    assert name in failed
    if case in ALONE:
        assert failed == (name,)


# Forgeries that correct the numbers, too.


def recount(folder):
    """Writes the counts of a summary again, as a careful forger would."""
    arrays = files.read_npz(f"{folder}/examples.npz")
    robust, stage = arrays["is_robust"], arrays["broken_by_stage"]
    right = arrays["clean_prediction"] == arrays["label"]
    low, high = tallies.wilson(int(robust.sum()), len(robust))

    def edit(summary):
        summary["num_examples"] = len(robust)
        summary["robust_accuracy"] = float(robust.mean())
        summary["clean_accuracy"] = float(right.mean())
        summary["robust_accuracy_ci95"] = [low, high]
        summary["expected_accuracy"] = float(1 - arrays["wrong_share"].mean())
        spent = int(arrays["gradient_evaluations"].sum())
        summary["stages"][-1]["gradient_evaluations"] += (
            spent - summary["gradient_evaluations"]
        )
        summary["gradient_evaluations"] = spent
        for i, row in enumerate(summary["stages"]):
            still_robust = right & ((stage < 0) | (stage >= i))
            here = stage == i
            row["num_attacked"] = int(still_robust.sum())
            row["num_broken"] = int(here.sum())
            row["robust_accuracy"] = float((still_robust & ~here).mean())
            row["gradient_curve"][-1] = row["gradient_evaluations"]
            row["restart_curve"] = [
                float(
                    (
                        still_robust
                        & ~(here & (arrays["broken_by_restart"] <= r))
                    ).mean()
                )
                for r in range(row["num_restarts"])
            ]

    change(folder, summary=edit)


def forged(folder, tmp_path, arrays, config=None):
    copy = str(tmp_path / "forged")
    shutil.copytree(folder, copy)
    change(copy, arrays=arrays, config=config)
    recount(copy)
    return verify.verify(copy, num_draws=40)


def spare(arrays, row):
    """Calls a broken example robust."""
    arrays["is_robust"][row] = True
    arrays["adversarial_prediction"][row] = arrays["label"][row]
    arrays["wrong_share"][row] = 0
    for name in ("stage", "restart", "target"):
        arrays[f"broken_by_{name}"][row] = -1
    arrays["broken_at_step"][row] = -1


def test_nothing_changes_by_counting_again(honest, tmp_path):
    assert forged(honest, tmp_path, lambda arrays: None).failed == ()


def test_a_broken_example_called_robust_has_a_breaking_image(honest, tmp_path):
    def edit(arrays):
        spare(arrays, np.flatnonzero(arrays["broken_by_stage"] >= 0)[0])
        arrays["gradient_evaluations"][:] = arrays["gradient_evaluations"]

    failed = forged(honest, tmp_path, edit).failed
    assert {"robust_examples", "budget"} <= set(failed)


def test_a_broken_example_called_robust_costs_too_little(honest, tmp_path):
    def edit(arrays):
        row = np.flatnonzero(arrays["broken_by_stage"] == 0)[0]
        spare(arrays, row)
        arrays["adversarial_images"][row] = clean_digits()[row]

    failed = forged(honest, tmp_path, edit).failed
    assert {"budget", "margins"} <= set(failed)
    assert "robust_examples" not in failed


def test_a_robust_example_called_broken_is_classified_right(honest, tmp_path):
    def edit(arrays):
        row = np.flatnonzero(arrays["is_robust"])[0]
        arrays["is_robust"][row] = False
        arrays["wrong_share"][row] = 1
        arrays["broken_by_stage"][row] = 1
        arrays["broken_by_restart"][row] = 1
        arrays["broken_at_step"][row] = 2
        wrong = (arrays["label"][row] + 1) % 10
        arrays["adversarial_prediction"][row] = wrong

    failed = forged(honest, tmp_path, edit).failed
    assert "broken_examples" in failed


@pytest.mark.parametrize(
    "restart, spent, ok",
    [
        (0, 0, False),
        (0, 1, True),
        (0, 6, True),
        (0, 7, False),
        (1, 5, False),
        (1, 6, True),
        (1, 11, True),
        (1, 12, False),
    ],
)
def test_a_broken_example_costs_what_its_restart_does(
    honest, tmp_path, restart, spent, ok
):
    """One gradient of FGS, then five in each restart of PGD."""

    def edit(arrays):
        row = np.flatnonzero(arrays["broken_by_stage"] == 1)[0]
        arrays["broken_by_restart"][row] = restart
        arrays["gradient_evaluations"][row] = spent

    failed = forged(honest, tmp_path, edit).failed
    assert failed == (() if ok else ("budget",))


def test_a_stage_removed_everywhere_leaves_its_broken_examples(
    honest, tmp_path
):
    def edit(config):
        del config["audit"]["stages"]["pgd"]

    failed = tampered(
        honest, tmp_path, config=edit, summary=a_removed_stage
    ).failed
    assert {"judgements", "budget"} <= set(failed)


def test_examples_added_everywhere_were_not_attacked(honest, tmp_path):
    """Two more of the data set, called robust, at no cost."""
    from ib_keras.data import digits

    def edit(arrays):
        more = {
            name: np.concatenate([array, array[-2:]])
            for name, array in arrays.items()
        }
        rows = np.array([40, 41])
        more["index"][rows] = rows
        label = digits.build().load("test")[1][rows]
        more["label"][rows] = more["clean_prediction"][rows] = label
        more["adversarial_images"][rows] = clean_digits()[rows]
        more["gradient_evaluations"][rows] = 0
        for row in rows:
            spare(more, row)
        return more

    def ask_for_more(config):
        config["audit"]["num_examples"] = 42

    failed = forged(honest, tmp_path, edit, ask_for_more).failed
    assert "budget" in failed
    assert "labels" not in failed


def test_another_model_is_another_model(honest):
    found = verify.verify(honest, runs.digits_model("deterministic"))
    assert {"model", "clean_predictions", "margins"} <= set(found.failed)


# Noise.


def test_a_recorded_share_is_compared_with_fresh_draws(noisy, tmp_path):
    def edit(arrays):
        row = np.flatnonzero(arrays["wrong_share"] == 1)[0]
        arrays["wrong_share"][row] = 0

    failed = tampered(noisy, tmp_path, arrays=edit).failed
    assert set(failed) == {"wrong_shares", "counts"}


def test_broken_examples_must_be_wrong_on_fresh_draws(noisy, tmp_path):
    def edit(arrays):
        arrays["adversarial_images"] = clean_digits()[:24].astype(np.float32)

    failed = tampered(noisy, tmp_path, arrays=edit).failed
    assert {"broken_examples", "wrong_shares"} <= set(failed)


def test_robust_examples_must_not_be_wrong_on_all_fresh_draws(noisy, tmp_path):
    def edit(arrays):
        # Of the largest margin: right on none of some thousand draws.
        broken = arrays["broken_by_stage"] >= 0
        spare(arrays, np.argmax(np.where(broken, arrays["margin"], -np.inf)))

    failed = forged(noisy, tmp_path, edit).failed
    assert {"robust_examples", "wrong_shares", "budget"} <= set(failed)


@pytest.mark.parametrize("right_at, ok", [(1999, True), (2000, False)])
def test_robust_examples_are_asked_a_thousand_times_more(right_at, ok):
    def ask(images, draw):
        return np.array([[draw == right_at, 0.5]])

    images, label = np.zeros([1, 2, 2, 1]), np.array([0])
    found = {"is_robust": label == 0, "label": label}
    found["adversarial_images"] = images
    fresh = rescoring.Draws(ask, images, label, 10, 5)
    problems = rescoring.noisy_robust_examples(found, fresh, ask, 5)
    assert (problems == []) == ok


def test_clean_predictions_must_occur_in_fresh_judgements(noisy, tmp_path):
    def edit(arrays):
        right = arrays["clean_prediction"] == arrays["label"]
        row = np.flatnonzero(right & ~arrays["is_robust"])[0]
        arrays["clean_prediction"][row] = (arrays["label"][row] + 1) % 10

    failed = tampered(noisy, tmp_path, arrays=edit).failed
    assert "clean_predictions" in failed


def coins(rng, chances, num_draws, group):
    """Recorded shares and fresh draws of models that are wrong by chance."""
    found = {"wrong_share": rng.binomial(group, chances) / group}
    wrong = rng.random((num_draws, len(chances))) < chances
    finite = np.ones(len(chances), bool)
    return found, types.SimpleNamespace(wrong=wrong, finite=finite)


def test_honest_noise_is_not_taken_for_a_forgery():
    """The level is 1e-4, plus 6e-5 of the four standard errors."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        chances = rng.beta(0.3, 0.3, 100)
        said = coins(rng, chances, 100, 5)
        alarms += bool(rescoring.noisy_wrong_shares(*said, 5))
    assert alarms <= 1


def test_a_mean_that_is_off_is_caught():
    rng = np.random.default_rng(1)
    found, fresh = coins(rng, np.full(400, 0.3), 100, 5)
    found["wrong_share"] = rng.binomial(5, np.full(400, 0.2)) / 5
    (problem,) = rescoring.noisy_wrong_shares(found, fresh, 5)
    assert "standard errors" in problem


def counted(then, now):
    """Shares of five recorded draws, and a hundred fresh ones, by counts.

    Every fresh draw is wrong on about as many examples as any other.
    """
    draws = np.arange(100)[:, None] + np.arange(len(now))
    finite = np.ones(len(now), bool)
    fresh = types.SimpleNamespace(wrong=draws % 100 < now, finite=finite)
    return {"wrong_share": np.array(then) / 5}, fresh


@pytest.mark.parametrize("errors, ok", [(3.9, True), (4.1, False)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_mean_may_be_four_standard_errors_off(sign, errors, ok):
    """Of 400 fair coins; no example is odd alone."""
    error = np.sqrt(400 * 0.25 * (1 / 5 + 1 / 100)) / 400
    num_wrong = round(400 * 5 * (0.5 + sign * errors * error))
    # Two or three of the five draws of each, as near as that can be.
    then = num_wrong * np.arange(1, 401) // 400
    found = counted(np.diff(then, prepend=0), np.full(400, 50))
    problems = rescoring.noisy_wrong_shares(*found, 5)
    assert len(problems) == (not ok)
    assert all("standard errors" in problem for problem in problems)


@pytest.mark.parametrize("num_wrong, ok", [(3, True), (2, False)])
def test_the_false_alarms_are_shared_by_the_examples(num_wrong, ok):
    """Five of five recorded: by chance 1.2e-6 with 3 of 100, 4e-7 with 2.

    The level is 1e-6 for each of a hundred examples.
    """
    then, now = np.ones(100, int), np.full(100, 20)
    then[7], now[7] = 5, num_wrong
    problems = rescoring.noisy_wrong_shares(*counted(then, now), 5)
    assert len(problems) == (not ok)
    assert all("example 7:" in problem for problem in problems)


def test_noise_that_all_images_share_is_no_forgery():
    """Then the mean moves by far more than the binomial error."""
    rng = np.random.default_rng(2)
    draws = rng.random((100, 1)) < 0.5
    fresh = types.SimpleNamespace(
        wrong=np.repeat(draws, 200, axis=1), finite=np.ones(200, bool)
    )
    found = {"wrong_share": np.full(200, 0.8)}
    assert rescoring.noisy_wrong_shares(found, fresh, 5) == []


# The geometry.


def at(norm, epsilon, clean, images):
    config = {"threat_model": {"norm": norm, "epsilon": epsilon}}
    arrays = {"adversarial_images": np.asarray(images, np.float32)}
    folder = claims.Folder(config, "", {}, arrays)
    return claims.ball(folder, np.asarray(clean, np.float32))


@pytest.mark.parametrize(
    "norm, moved, ok",
    [
        ("linf", [0.1, -0.1], True),
        ("linf", [0.10001, 0.0], False),
        ("l2", [0.06, 0.08], True),
        ("l2", [0.06, 0.0801], False),
        ("l2", [0.10003, 0.0], False),
        ("l2", [0.1, 0.1], False),
        ("linf", [0.1, np.nan], False),
        ("linf", [np.inf, 0.0], False),
        ("l1", [0.0, 0.0], False),
    ],
)
def test_the_ball_ends_at_epsilon(norm, moved, ok):
    clean = np.full([1, 1, 2, 1], 0.5)
    images = clean + np.reshape(moved, [1, 1, 2, 1])
    assert (at(norm, 0.1, clean, images) == []) == ok


@pytest.mark.parametrize("value, ok", [(0.0, True), (-1e-7, False)])
def test_the_box_ends_at_0_and_1(value, ok):
    for image in (value, 1 - value):
        clean = np.full([1, 1, 1, 1], round(image))
        images = np.full([1, 1, 1, 1], image)
        assert (at("linf", 0.1, clean, images) == []) == ok


# Folders and models that are not at hand; other files.


def test_a_model_that_has_moved_is_named_by_hand(honest, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(honest, copy)

    def edit(summary):
        summary["model"]["path"] = "/nowhere/saved_model"

    change(copy, summary=edit)
    error = runs.refused(verify.verify, str(copy))
    assert "--saved_model" in error.fix
    assert verify.verify(str(copy), runs.digits_model("vib")).ok


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
def test_a_folder_without_its_files_is_refused(honest, tmp_path, name):
    copy = tmp_path / "part"
    shutil.copytree(honest, copy)
    (copy / name).unlink()
    runs.refused(verify.verify, str(copy))
    (copy / name).write_text("[1]")
    runs.refused(verify.verify, str(copy))
    (copy / name).write_text("{")
    runs.refused(verify.verify, str(copy))


def test_the_hashes_of_the_files_are_taken_again(honest, tmp_path):
    """Of the model's files, one is replaced in both records."""
    copy = tmp_path / "touched"
    shutil.copytree(honest, copy)
    path = copy / "safety.json"
    safety = json.loads(path.read_text())
    assert "saved_model.pb" in safety["files"]
    safety["files"]["saved_model.pb"] = "0" * 64
    path.write_text(json.dumps(safety))
    assert verify.verify(str(copy)).failed == ("safety",)

    def edit(summary):
        summary["safety"]["files"]["saved_model.pb"] = "0" * 64

    change(copy, summary=edit)
    found = verify.verify(str(copy))
    (said,) = [c.sentence for c in found.checks if not c.ok]
    assert found.failed == ("safety",)
    assert "sha256" in said
    path.unlink()
    assert verify.verify(str(copy)).failed == ("safety",)


def test_the_summary_repeats_what_the_safety_check_said(honest, tmp_path):
    def edit(summary):
        summary["safety"]["allow_ops"] = ["PyFunc"]

    assert tampered(honest, tmp_path, summary=edit).failed == ("safety",)


def finding(**changes):
    return {
        "id": "D1",
        "question": "?",
        "status": "pass",
        "evidence": "seen",
        "source": "",
        "value": None,
        "threshold": None,
        "advice": "",
        "examples": [],
        "data": {},
    } | changes


def test_the_verdict_must_follow_from_the_findings(honest, tmp_path):
    copy = tmp_path / "touched"
    shutil.copytree(honest, copy)
    path = copy / "findings.json"
    found = [finding(id=id) for id in verdict.NEEDED]
    found.append(finding(id="D12", status="fail"))
    summary = files.read_json(f"{honest}/summary.json")
    said = {
        "seed": summary["seed"],
        "epsilon": summary["threat_model"]["epsilon"],
        "findings": found,
        "verdict": verdict.decide(found, summary),
    }
    assert said["verdict"]["label"] == "invalid"
    path.write_text(json.dumps(said))
    assert verify.verify(str(copy)).ok
    # The failure is taken out, or the verdict is made a better one.
    better = {**said, "findings": found[:-1]}
    path.write_text(json.dumps(better))
    assert verify.verify(str(copy)).failed == ("findings",)
    better = {**said["verdict"], "label": "believable"}
    path.write_text(json.dumps({**said, "verdict": better}))
    assert verify.verify(str(copy)).failed == ("findings",)
    for odd in ({"seed": 77}, {"epsilon": 0.3}):
        path.write_text(json.dumps(said | odd))
        assert verify.verify(str(copy)).failed == ("findings",)
    path.write_text("{}")
    assert verify.verify(str(copy)).failed == ("findings",)


def test_findings_that_were_asked_for_must_be_there(honest, tmp_path):
    def edit(config):
        config["audit"]["diagnostics"]["set"] = "quick"

    found = tampered(honest, tmp_path, config=edit)
    assert "findings" in found.failed


def test_fields_that_nothing_checks_are_listed(honest, tmp_path):
    def edit(summary):
        summary["new_number"] = 0.5

    found = tampered(honest, tmp_path, summary=edit)
    assert "new_number" in found.unchecked
    assert "robust_accuracy" not in found.unchecked
    arrays = {n for n in found.unchecked if n.startswith("examples.npz: ")}
    assert arrays == {f"examples.npz: {n}" for n in ("gradient_norm", "loss")}


def test_the_verifier_imports_nothing_of_what_it_verifies():
    """It imports neither the attacks nor their geometry, runner or judge."""
    imported = set()
    modules = (verify.verification, claims, tallies, rescoring, provenance)
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{a.name}" for a in node.names}
    ours = {name for name in imported if "ib_keras.attacks" in name}
    assert ours == {"ib_keras.attacks.base.check_count"}
