"""D18: does an equal call give an equal answer?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_THRESHOLD = 1e-4


class Randomness:
    """Reads the answers of five equal calls, seed included."""

    cost = "free"
    ids = ("D18",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D18."""
        seen = case.subject.behaviour
        status, advice = base.PASS, ""
        if seen.is_random:
            status, advice = _judge(seen)
        return [
            base.Finding(
                id="D18",
                question="Do five equal calls give equal answers?",
                status=status,
                value=seen.max_distance,
                threshold=_THRESHOLD,
                evidence=f"Right answers among {seen.num_images} clean images "
                f"in five calls with one seed: "
                f"{', '.join(map(str, seen.num_correct))}; the largest "
                "distance of two answers, scaled to length 1, is "
                f"{seen.max_distance:.3g}."
                + _ops("Layers of augmentation", seen.augmentation)
                + _ops("Random operations", seen.random_ops),
                advice=advice,
                source="Croce and Hein 2020, AutoAttack, checks.py",
                data={
                    "num_correct": list(seen.num_correct),
                    "augmentation": list(seen.augmentation),
                    "random_ops": list(seen.random_ops),
                },
            )
        ]


def _ops(what, names):
    return f" {what} in the graph: {', '.join(names)}." if names else ""


def _judge(seen):
    if seen.augmentation:
        return base.FAIL, (
            f"Layers of augmentation ({', '.join(seen.augmentation)}) are "
            "active at inference: model.export of Keras leaves them on. This "
            "is no randomised defence: re-export with ExportArchive and a "
            "function that calls the model with training=False."
        )
    if seen.random_ops:
        return base.WARN, (
            "The model draws noise that no seed repeats. Judgements "
            "take several draws, but they cannot be recomputed: export a "
            "function of (images, seed, num_samples) with stateless random "
            "operations."
        )
    return base.FAIL, (
        "The answers depend on something that is neither the images nor the "
        "seed, such as earlier calls: export a function that has no state."
    )


def build() -> Randomness:
    """Builds the diagnostic."""
    return Randomness()
