"""Evaluates an audit's images again, in other batches and with other noise.

A model without noise must repeat the recorded values, up to rounding by another
batch size. For a noisy one the recorded values of few draws are compared with
those of many fresh ones, within the sampling error.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import tensorflow as tf

from ib_keras.audit.verify.claims import rows

# Used by the verifier alone, and by NumPy's hash: its noise differs from that
# of audits.
_PURPOSE = 0x5EC0
# The chance that an honest folder fails a statistical check.
FALSE_ALARM = 1e-4
STANDARD_ERRORS = 4.0
# Draws for the examples that the first draws leave undecided.
_MANY = 1000

AskFn = Callable[[np.ndarray, int], np.ndarray]


def asker(logits_fn: Callable, batch_size: int, seed: int = 0) -> AskFn:
    """A function `(images, draw) -> logits [n, classes]` on the host.

    Args:
        logits_fn: The audited classifier.
        batch_size: Another one than the audit's.
        seed: Of the fresh noise.
    """

    def ask(images, draw):
        parts = []
        # From the last batch to the first: a model that counts its calls, or
        # depends on the other images of a batch, gives other answers.
        for first in reversed(range(0, len(images), batch_size)):
            batch = tf.constant(images[first : first + batch_size])
            noise = np.random.SeedSequence([seed, _PURPOSE, draw, first])
            words = noise.generate_state(2, np.uint32).view(np.int32)
            parts.append(
                np.asarray(logits_fn(batch, tf.constant(words)), np.float32)
            )
        return np.concatenate(parts[::-1])

    return ask


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of the model for some images; arrays are `[n]`.

    Attributes:
        finite: Whether all logits are.
        margin: Largest other logit - logit of the label.
        slack: Tolerance for rounding, from the size of the logits.
        logits: float32 `[n, classes]`.
    """

    finite: np.ndarray
    margin: np.ndarray
    slack: np.ndarray
    logits: np.ndarray

    def says(self, classes: np.ndarray) -> np.ndarray:
        """Where the prediction is `classes`, up to rounding; -1: not finite."""
        known = (classes >= 0) & (classes < self.logits.shape[1])
        place = np.where(known, classes, 0)[:, None]
        logit = np.take_along_axis(self.logits, place, axis=1)[:, 0]
        gap = self.logits.max(axis=1) - logit
        return np.where(self.finite, known & (gap <= self.slack), classes == -1)


def answers(
    ask: AskFn, images: np.ndarray, labels: np.ndarray, tolerance: float
) -> Answers:
    """Evaluates each image once.

    Args:
        ask: `(images, draw) -> logits [examples, classes]`.
        images: float32 `[examples, height, width, channels]`.
        labels: int `[examples]`.
        tolerance: As in `verification.verify`.

    Returns:
        The `Answers`.
    """
    logits = ask(images, 0)
    finite = np.all(np.isfinite(logits), axis=1)
    safe = np.where(finite[:, None], logits, 0.0)
    others = safe.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    margin = others.max(axis=1) - safe[np.arange(len(labels)), labels]
    slack = tolerance * (1 + np.abs(safe).max(axis=1))
    return Answers(finite, margin, slack, safe)


# A model without noise.


def clean_predictions(found: dict, said: Answers) -> list[str]:
    """The recorded clean predictions are those of the model."""
    odd = ~said.says(found["clean_prediction"])
    return [f"{rows(odd)}: the model says another class"] if odd.any() else []


def broken_examples(found: dict, said: Answers) -> list[str]:
    """Each broken example is misclassified as the recorded class."""
    broken = found["broken_by_stage"] >= 0
    right = broken & ~(said.finite & (said.margin >= -said.slack))
    odd = broken & ~right & ~said.says(found["adversarial_prediction"])
    problems = []
    if right.any():
        problems.append(f"{rows(right)}: called broken, but classified right")
    if odd.any():
        problems.append(f"{rows(odd)}: misclassified as another class")
    return problems


def robust_examples(found: dict, said: Answers) -> list[str]:
    """No saved image of a robust example is misclassified."""
    wrong = found["is_robust"] & said.finite & (said.margin > said.slack)
    if not wrong.any():
        return []
    return [f"{rows(wrong)}: called robust, but the saved image is wrong"]


def margins(found: dict, said: Answers) -> list[str]:
    """Each margin is that of the saved image."""
    problems = finite_margins(found, said.finite)
    away = np.abs(found["margin"] - said.margin)
    far = np.isfinite(found["margin"]) & said.finite & (away > 2 * said.slack)
    if far.any():
        worst = int(np.argmax(np.where(far, away, 0)))
        problems.append(
            f"{rows(far)}: not that of the saved image (example {worst}: "
            f"{found['margin'][worst]:.6g}, not {said.margin[worst]:.6g})"
        )
    return problems


def wrong_shares(found: dict, said: Answers) -> list[str]:
    """Without noise a saved image is wrong always or never."""
    expected = (~found["is_robust"]).astype(np.float32)
    close = np.abs(said.margin) <= said.slack
    odd = (found["wrong_share"] != expected) & ~close
    return [f"{rows(odd)}: not that of the judgement"] if odd.any() else []


def finite_margins(found: dict, finite: np.ndarray) -> list[str]:
    """Only where the model's logits are not finite is there no margin."""
    odd = finite & ~np.isfinite(found["margin"])
    return [f"{rows(odd)}: not a finite number"] if odd.any() else []


# A noisy model.


class Draws:
    """Fresh draws of the classifier on some images.

    Args:
        ask: The model.
        images: float32 `[n, ...]`.
        labels: int `[n]`.
        num_draws: How many.
        group: Draws per judgement of the audit, most of which decide.

    Attributes:
        wrong: bool `[num_draws, n]`; logits that are not finite count as
            right.
        mean_prediction: int `[n]`, of the mean probabilities of all draws.
        group_predictions: int `[num_draws // group, n]`, the judgements of
            `group` draws each.
        finite: bool `[n]`.
    """

    def __init__(self, ask, images, labels, num_draws, group):
        wrong, groups, total, votes = [], [], 0.0, 0
        self.finite = np.ones(len(images), bool)
        for draw in range(num_draws):
            logits = ask(images, draw)
            finite = np.isfinite(logits).all(axis=1)
            self.finite &= finite
            logits = np.where(finite[:, None], logits, 0.0)
            wrong.append(finite & (logits.argmax(axis=1) != labels))
            total = total + scipy.special.softmax(logits, axis=1)
            said = np.where(finite, logits.argmax(axis=1), labels)
            votes = votes + np.eye(logits.shape[1], dtype=int)[said]
            if (draw + 1) % group == 0:
                groups.append(_decide(votes, labels))
                votes = 0
        self.wrong = np.stack(wrong)
        self.group_predictions = np.stack(groups)
        self.mean_prediction = total.argmax(axis=1)

    def of(self, labels: np.ndarray) -> dict[str, Any]:
        """Accuracy per draw, of the mean, and on every draw.

        The gap between the first and the last is what an attack can gain by
        repeated draws alone.
        """
        per_draw = float((~self.wrong).mean())
        always = float((~self.wrong.any(axis=0)).mean())
        return {
            "num_draws": len(self.wrong),
            "accuracy_per_draw": per_draw,
            "accuracy_of_mean": float((self.mean_prediction == labels).mean()),
            "accuracy_on_every_draw": always,
            "gap": per_draw - always,
        }


def _decide(votes, labels):
    """The label, or where most votes are for others, the first of those."""
    rows = np.arange(len(labels))
    others = votes.copy()
    others[rows, labels] = 0
    is_wrong = 2 * others.sum(axis=1) > votes.sum(axis=1)
    return np.where(is_wrong, others.argmax(axis=1), labels)


def noisy_clean_predictions(
    found: dict, fresh: Draws, ask: AskFn, images: np.ndarray, group: int
) -> list[str]:
    """Each clean prediction is one that fresh judgements come to, too.

    If it is not that of the mean of the first draws, a thousand more draws are
    grouped into judgements, of which one must agree.
    """
    recorded = found["clean_prediction"]
    doubt = np.flatnonzero(
        (recorded != fresh.mean_prediction)
        & ~((recorded == -1) & ~fresh.finite)
    )
    if not len(doubt):
        return []
    many = Draws(
        lambda x, draw: ask(x, _MANY + draw),
        images[doubt],
        found["label"][doubt],
        max(_MANY, group),
        group,
    )
    never = ~(many.group_predictions == recorded[doubt]).any(axis=0)
    odd = np.zeros(len(recorded), bool)
    odd[doubt[never]] = True
    if not odd.any():
        return []
    judgements = len(many.group_predictions)
    return [f"{rows(odd)}: not once in {judgements} fresh judgements"]


def noisy_wrong_shares(found: dict, fresh: Draws, group: int) -> list[str]:
    """The recorded shares agree with fresh ones, within binomial error.

    For each example the recorded draws and the fresh ones are two samples of
    one coin (exact hypergeometric test); so are their means, within four
    standard errors: the binomial one or, where larger (noise that images
    share), the one that the draws themselves show.
    """
    finite = fresh.finite
    num_fresh = len(fresh.wrong)
    share = np.clip(np.nan_to_num(found["wrong_share"]), 0, 1)
    then = np.rint(share * group).astype(int)[finite]
    now = fresh.wrong.sum(axis=0)[finite]
    test = scipy.stats.hypergeom(group + num_fresh, then + now, group)
    chance = 2 * np.minimum(test.cdf(then), test.sf(then - 1))
    odd = np.zeros(len(finite), bool)
    odd[finite] = chance < FALSE_ALARM / max(len(then), 1)
    problems = []
    if odd.any():
        problems.append(
            f"{rows(odd)}: recorded {share[odd][0]:.3g}, on {num_fresh} fresh "
            f"draws {fresh.wrong[:, odd].mean(axis=0)[0]:.3g}"
        )
    # Two more draws, one of each kind, avoid an error of zero.
    mean = (then + now + 1) / (group + num_fresh + 2)
    parts = 1 / group + 1 / num_fresh
    binomial = np.sqrt(np.sum(mean * (1 - mean)) * parts) / max(len(then), 1)
    shown = fresh.wrong[:, finite].mean(axis=1).std(ddof=1) * np.sqrt(parts)
    error = max(binomial, shown)
    difference = (then / group).mean() - (now / num_fresh).mean()
    if abs(difference) > STANDARD_ERRORS * error:
        problems.append(
            f"the mean is {difference:+.4f} off that of fresh draws, more than "
            f"{STANDARD_ERRORS:g} standard errors of {error:.4f}"
        )
    return problems


def noisy_broken_examples(found: dict, fresh: Draws) -> list[str]:
    """At least half of what was broken is wrong on some fresh draw.

    One of many judgements can be wrong by chance; most of them cannot.
    """
    broken = found["broken_by_stage"] >= 0
    never = broken & ~fresh.wrong.any(axis=0)
    if 2 * never.sum() <= broken.sum():
        return []
    return [
        f"{rows(never)}: right on all of {len(fresh.wrong)} fresh draws, of "
        f"{broken.sum()} called broken"
    ]


def noisy_robust_examples(
    found: dict, fresh: Draws, ask: AskFn, group: int
) -> list[str]:
    """No robust example's saved image is wrong on every fresh draw.

    Those that are wrong on all of the first draws get a thousand more.
    """
    doubt = np.flatnonzero(found["is_robust"] & fresh.wrong.all(axis=0))
    if not len(doubt):
        return []
    many = Draws(
        lambda x, draw: ask(x, _MANY + draw),
        found["adversarial_images"][doubt],
        found["label"][doubt],
        max(_MANY, group),
        group,
    )
    odd = np.zeros(len(fresh.finite), bool)
    odd[doubt[many.wrong.all(axis=0)]] = True
    if not odd.any():
        return []
    return [f"{rows(odd)}: called robust, but wrong on every fresh draw"]
