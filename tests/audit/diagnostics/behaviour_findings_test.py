"""What the diagnostics say of a behaviour that was seen."""

import dataclasses
import types

import numpy as np
import pytest

from ib_keras.attacks import ledger as ledgers
from ib_keras.audit.audited_model import behaviour
from ib_keras.audit.diagnostics import batch_invariance
from ib_keras.audit.diagnostics import few_classes
from ib_keras.audit.diagnostics import gradient_exists
from ib_keras.audit.diagnostics import label_order
from ib_keras.audit.diagnostics import non_finite
from ib_keras.audit.diagnostics import outputs
from ib_keras.audit.diagnostics import own_state
from ib_keras.audit.diagnostics import randomness
from ib_keras.audit.diagnostics.case import stage

HONEST = behaviour.Behaviour(
    num_images=64,
    num_correct=(60,) * 5,
    max_distance=0.0,
    is_random=False,
    batch_difference=1e-6,
    batch_size_differing="batches of 7",
    changed_variables=(),
    state={"0:kernel": "a"},
    augmentation=(),
    random_ops=(),
    assign_ops=(),
    gradient="present",
    gradient_problem="",
    zero_gradient_share=0.0,
    nonfinite_share=0.0,
    nonfinite_gradient_share=0.0,
    saturated_share=0.0,
    outputs="logits",
    num_classes=10,
    accuracy=0.97,
    order_accuracy=None,
    order=None,
)
ALL = (
    batch_invariance,
    few_classes,
    gradient_exists,
    label_order,
    non_finite,
    outputs,
    own_state,
    randomness,
)
RANDOM = {
    "is_random": True,
    "num_correct": (60, 58, 61, 60, 60),
    "max_distance": 0.3,
    "batch_difference": None,
}


def make_case(now=None, stages=(), num_classes=10, **changes):
    """Four examples: two robust, one broken, one clean error."""
    ledger = ledgers.Ledger.new(np.zeros([4, 2, 2, 1]), np.zeros(4, int))
    ledger.clean_prediction = np.array([0, 0, 0, 1])
    ledger.is_robust = np.array([True, True, False, False])
    now = HONEST.state if now is None else now
    return types.SimpleNamespace(
        subject=types.SimpleNamespace(
            behaviour=dataclasses.replace(HONEST, **changes),
            model=types.SimpleNamespace(
                state_hash=lambda: now, precision="float32"
            ),
        ),
        ledger=ledger,
        stages=list(stages),
        num_classes=num_classes,
    )


def ask(module, case=None, **changes):
    (finding,) = module.build().ask(case or make_case(**changes))
    assert finding.id in module.build().ids
    assert bool(finding.advice) == (finding.status in ("warn", "fail"))
    finding.to_json()
    return finding


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__[-12:])
def test_an_honest_model_passes(module):
    assert ask(module).status == "pass"
    assert module.build().cost == "free"


def test_augmentation_is_no_randomised_defence():
    found = ask(
        randomness, augmentation=("random_flip",), random_ops=("R",), **RANDOM
    )
    assert found.status == "fail"
    assert "random_flip" in found.advice
    assert "training=False" in found.advice
    assert "no randomised defence" in found.advice


def test_noise_without_a_seed_is_a_warning():
    found = ask(randomness, random_ops=("RandomUniform",), **RANDOM)
    assert found.status == "warn"
    assert "60, 58, 61, 60, 60" in found.evidence
    assert "RandomUniform" in found.evidence


def test_answers_that_change_without_noise_fail():
    assert ask(randomness, **RANDOM).status == "fail"


def test_statistics_of_the_batch_fail_and_noise_hides_them():
    found = ask(batch_invariance, batch_difference=2e-4)
    assert found.status == "fail"
    assert "batch normalisation" in found.advice
    assert ask(batch_invariance, **RANDOM).status == "not applicable"


@pytest.mark.parametrize(
    ("gradient", "status"),
    [("zero", "warn"), ("none", "fail"), ("raises", "fail")],
)
def test_a_gradient_that_is_not_there(gradient, status):
    found = ask(gradient_exists, gradient=gradient, gradient_problem="LookUp")
    assert found.status == status
    assert ("LookUp" in found.evidence) == (gradient == "raises")


def test_probabilities_are_a_warning_with_the_share_at_one():
    found = ask(outputs, outputs="probabilities", saturated_share=0.25)
    assert found.status == "warn"
    assert "25.0%" in found.evidence
    assert ask(outputs, outputs="log_probabilities").status == "pass"


def test_variables_that_change_fail_whenever_they_did():
    found = ask(own_state, changed_variables=("count",))
    assert found.status == "fail"
    assert "count" in found.evidence
    found = ask(own_state, now={"0:kernel": "b"})
    assert found.status == "fail"
    assert "kernel" in found.evidence
    found = ask(own_state, now={}, state={})
    assert found.status == "not applicable"


def test_labels_in_another_order_fail():
    found = ask(
        label_order, accuracy=0.02, order_accuracy=0.95, order=(1, 2, 0)
    )
    assert found.status == "fail"
    assert found.value == pytest.approx(0.93)
    assert "1, 2, 0" in found.evidence


@pytest.mark.parametrize(
    ("row", "status"), [(0, "fail"), (2, "warn"), (3, "warn")]
)
def test_an_attack_that_met_no_number_proves_nothing(row, status):
    """One example that is robust for that reason is too many."""
    case = make_case()
    case.ledger.num_nonfinite[row] = 3
    found = ask(non_finite, case)
    assert found.status == status
    assert found.examples == (row,)
    assert found.value == 0.25


@pytest.mark.parametrize(
    ("loss", "num_classes", "status"),
    [
        ("dlr", 2, "warn"),
        ("dlr", 3, "pass"),
        ("cross_entropy", 2, "pass"),
    ],
)
def test_losses_need_classes(loss, num_classes, status):
    stages = [stage("apgd", loss=loss, num_steps=2)]
    found = ask(few_classes, stages=stages, num_classes=num_classes)
    assert found.status == status
