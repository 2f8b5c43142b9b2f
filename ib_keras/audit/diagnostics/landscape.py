"""D30: can gradients climb the loss around the attacked images?

A grid over a plane needs no gradient, so it shows what misled attacks miss:
plateaus without slope, cliffs, and higher loss near the attack's own image. A
grid that finds more than the attack proves that the attack is weak; a smooth
surface on one plane does not prove the contrary.
"""

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import judging
from ib_keras.audit import landscape
from ib_keras.audit.diagnostics import base as diagnostics
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.errors import UserError

ID = "D30"
QUESTION = (
    "Is the loss around the attacked images a surface that gradients can climb?"
)
SOURCE = "Korshunova et al. 2021, figures 4 and 10"

# Shares above which there is a warning; no thresholds are published.
MOST_FLAT = 0.5
MOST_GAIN = 0.05
_CANDIDATES = 8
_PURPOSE = 30
_PLANE, _NOISE, _FIRST, _SECOND = 1, 2, 3, 4


class Landscape:
    """Evaluates planes of some examples.

    Args:
        num_examples: How many at most.
        grid: Points along each axis of a plane.
        span: Where the axes end, in units of epsilon.
        batch_size: Points on the device at once.
    """

    cost = "cheap"
    ids = (ID,)

    def __init__(self, num_examples, grid, span, batch_size):
        self.num_examples = num_examples
        self.grid = grid
        self.span = span
        self.batch_size = batch_size

    def ask(self, case) -> list[diagnostics.Finding]:
        """Evaluates, judges what was found, and writes `landscapes.npz`."""
        rows = landscape_examples.choose(
            case.ledger,
            np.union1d(case.rows, case.robust_rows),
            self.num_examples,
        )
        if not rows or not float(case.threat_model.epsilon):
            evidence = "No example was attacked in a ball of any size."
            return [_finding(diagnostics.NOT_APPLICABLE, evidence)]
        seed = case.seed_of(_PURPOSE)
        planes = [
            landscape_examples.plane(
                case.subject.images,
                case.ledger,
                row,
                case.threat_model,
                seeds.fold(seed, _PLANE),
            )
            for row in rows
        ]
        surfaces = self._evaluate(case, rows, planes, seed)
        if case.write is not None:
            case.write(
                landscape_examples.NAME,
                landscape_examples.to_arrays(rows, surfaces),
            )
        records = [
            _record(row, surface, bool(case.ledger.is_robust[row]))
            for row, surface in zip(rows, surfaces, strict=True)
        ]
        self._beat(case, records, planes, surfaces, seed)
        return [_conclude(records, surfaces, self.grid)]

    def _evaluate(self, case, rows, planes, seed):
        def evaluate_all(take_gradients):
            evaluator = landscape.LandscapeEvaluator(
                case.subject.logits_fn,
                case.threat_model,
                grid=self.grid,
                span=self.span,
                batch_size=self.batch_size,
                take_gradients=take_gradients,
            )
            surfaces = [
                evaluator(plane, seeds.fold(seed, _NOISE, row))
                for row, plane in zip(rows, planes, strict=True)
            ]
            case.gradient_evaluations += evaluator.gradient_evaluations * len(
                rows
            )
            return surfaces

        try:
            return evaluate_all(take_gradients=True)
        except (UserError, LookupError, tf.errors.OpError):
            return evaluate_all(take_gradients=False)  # It has no gradient.

    def _beat(self, case, records, planes, surfaces, seed):
        """Judges the grid's best points against the attack's own image.

        Only for robust examples: an attack stops at the first misclassified
        image, so the grid always finds a worse one of a broken example. The
        best point was chosen among many, and with noise it may be a lucky
        sample, so it is judged a second time with many draws, and that alone
        counts.
        """
        robust = [i for i, record in enumerate(records) if record["is_robust"]]
        if not robust:
            return
        judge = _Judge(case)
        chosen = [_best_images(surfaces[i], planes[i]) for i in robust]
        first = judge(
            [robust[i] for i, found in enumerate(chosen) for _ in found],
            planes,
            np.concatenate(chosen),
            seeds.fold(seed, _FIRST),
        )
        ends = np.cumsum([len(found) for found in chosen])[:-1]
        worst = [
            found[int(np.lexsort((margin, wrong))[-1])]
            for found, margin, wrong in zip(
                chosen,
                np.split(np.nan_to_num(first.margin, nan=-np.inf), ends),
                np.split(first.wrong_share, ends),
                strict=True,
            )
        ]
        attacked = [
            case.ledger.adversarial_images[records[i]["row"]] for i in robust
        ]
        second = judge(
            robust * 3,
            planes,
            np.stack(worst + attacked + [planes[i].image for i in robust]),
            seeds.fold(seed, _SECOND),
            is_thorough=True,
        )
        margins = second.margin.reshape(3, -1).astype(float)
        for position, i in enumerate(robust):
            is_wrong = bool(second.is_wrong[position])
            records[i]["is_wrong_beside_attack"] = is_wrong
            records[i]["gain"] = _gain(*margins[:, position])


class _Judge:
    """The judge of the audit, for images of given planes."""

    def __init__(self, case):
        self._threat_model = case.threat_model
        self._judge = judging.Judge(
            case.subject.logits_fn,
            case.threat_model.norm,
            case.subject.num_judge_samples,
            batch_size=64,
        )

    def __call__(self, which, planes, images, seed, is_thorough=False):
        return self._judge(
            np.stack([planes[i].image for i in which]),
            images.astype(np.float32),
            np.array([planes[i].label for i in which], np.int32),
            float(self._threat_model.epsilon),
            seed,
            is_thorough=is_thorough,
        )


def _best_images(surface, plane) -> np.ndarray:
    """Images of the points in the ball with the highest margins."""
    margin = np.where(
        surface.in_ball & np.isfinite(surface.margin), surface.margin, -np.inf
    )
    best = np.argsort(-margin, axis=None, kind="stable")[:_CANDIDATES]
    second, first = np.unravel_index(best, margin.shape)
    coefficients = np.stack(
        [surface.first_axis[first], surface.second_axis[second]], axis=1
    )
    return plane.images_at(coefficients)


def _gain(grid: float, attack: float, clean: float) -> float | None:
    """How far the grid's margin is above the attack's, relative to its rise.

    The rise is at least a thousandth of the clean margin, or rounding errors
    would be divided by one another.
    """
    if not np.isfinite([grid, attack, clean]).all():
        return None
    rise = max(attack - clean, 1e-3 * abs(clean), 1e-6)
    return float(max(grid - attack, 0.0) / rise)


def _record(row: int, surface, is_robust: bool) -> dict:
    numbers = landscape.describe(surface)._asdict() | {
        "attack_cross_entropy": surface.attack_cross_entropy,
        "attack_margin": surface.attack_margin,
    }
    plain = {
        name: None if value is None or not np.isfinite(value) else value
        for name, value in numbers.items()
    }
    return {"row": int(row), "is_robust": is_robust, **plain}


def _conclude(records, surfaces, grid: int) -> diagnostics.Finding:
    flat, margin_flat = (
        _pooled(records, surfaces, name)
        for name in ("flat_share", "margin_flat_share")
    )
    wrong = [r for r in records if r.get("is_wrong_beside_attack")]
    gains = [r for r in records if (r.get("gain") or 0.0) > MOST_GAIN]
    gain = max((r["gain"] or 0.0 for r in records if "gain" in r), default=None)
    data = {
        "grid": grid,
        "flat_share": flat,
        "margin_flat_share": margin_flat,
        "highest_gain": gain,
        "examples": records,
    }
    on = f"planes through {len(records)} example{'s'[: len(records) > 1]}"
    if wrong:
        return _finding(
            diagnostics.FAIL,
            f"A grid over {on} found misclassified images in the ball of "
            f"{len(wrong)} that the attacks call robust.",
            value=len(wrong),
            threshold=0,
            advice="The attack is too weak for this model: use more restarts, "
            "another loss and an attack without gradients.",
            examples=[r["row"] for r in wrong],
            data=data,
        )
    if gains:
        return _finding(
            diagnostics.WARN,
            f"A grid over {on} found images in the ball whose margin rose up "
            f"to {gain:.0%} more than the attack's best, for {len(gains)}.",
            value=gain,
            threshold=MOST_GAIN,
            advice="The attack stopped short of a maximum: use more steps, a "
            "smaller step size or more restarts.",
            examples=[r["row"] for r in gains],
            data=data,
        )
    told = _tell_flatness(flat, margin_flat, on)
    if flat is not None and margin_flat is not None and flat > MOST_FLAT:
        flattest = sorted(records, key=lambda r: -(r["flat_share"] or 0.0))
        return _finding(
            diagnostics.WARN,
            told,
            value=flat,
            threshold=MOST_FLAT,
            advice=_advise(margin_flat),
            examples=[r["row"] for r in flattest if r["flat_share"]],
            data=data,
        )
    if gain is not None:
        told += (
            " For robust examples the margin rose on the grid at most "
            f"{gain:.1%} more than by the attack."
        )
    return _finding(
        diagnostics.PASS,
        told,
        value=flat,
        threshold=None if flat is None else MOST_FLAT,
        data=data,
    )


def _pooled(records, surfaces, name: str) -> float | None:
    """The share over all balls except those with a constant loss."""
    known = [
        (record[name], surface.in_ball.sum())
        for record, surface in zip(records, surfaces, strict=True)
        if record[name] is not None and not record["is_constant"]
    ]
    if not known:
        return None
    shares, sizes = zip(*known, strict=True)
    return float(np.average(shares, weights=sizes))


def _tell_flatness(flat, margin_flat, on: str) -> str:
    if flat is None:
        return (
            f"On {on} the model has no gradient, or its answer is the same "
            "everywhere."
        )
    return (
        f"On {on} the gradient is below {landscape.FLAT:g} at {flat:.1%} of "
        f"the ball for the cross-entropy and at {margin_flat:.1%} for the "
        "margin."
    )


def _advise(margin_flat: float) -> str:
    if margin_flat <= MOST_FLAT:
        return (
            "The cross-entropy is saturated: attack with the margin or the "
            "DLR loss too."
        )
    return "Gradients vanish: use attacks that need none, such as square."


def _finding(status: str, evidence: str, **more) -> diagnostics.Finding:
    return diagnostics.Finding(ID, QUESTION, status, evidence, SOURCE, **more)


def build(num_examples=4, grid=41, span=1.25, batch_size=256) -> Landscape:
    """Builds the diagnostic from a config section.

    Raises:
        UserError: If an argument is not a valid count.
    """
    return Landscape(
        base.check_count("num_examples", num_examples),
        base.check_count("grid", grid, 5),
        span,
        base.check_count("batch_size", batch_size),
    )
