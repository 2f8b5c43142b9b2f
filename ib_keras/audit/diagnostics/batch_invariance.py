"""D25: is the answer for an image independent of its batch?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_THRESHOLD = 1e-4
# Of the type that the model computes in, where it is shorter than float32:
# batches of other sizes are summed in another order, and rounded to it.
_NUM_EPSILONS = 4
_EPSILONS = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e4m3fn": 2.0**-3,
    "float8_e5m2": 2.0**-2,
}


class BatchInvariance:
    """Reads how logits differ between batches of 64, 7, 1 and permuted ones."""

    cost = "free"
    ids = ("D25",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D25."""
        seen = case.subject.behaviour
        limit = threshold(case.subject.model.precision)
        difference = seen.batch_difference
        if difference is None:
            status = base.NOT_APPLICABLE
            evidence = "Equal calls differ already, so batches are not compared"
        else:
            status = base.FAIL if difference > limit else base.PASS
            evidence = (
                "The largest difference of a logit between batches of 64, 7 "
                "and 1 and another order, over the largest logit, is "
                f"{difference:.3g}"
            )
            if status == base.FAIL:
                evidence += f" (in {seen.batch_size_differing})"
        return [
            base.Finding(
                id="D25",
                question="Is the answer for an image the same in any batch?",
                status=status,
                value=difference,
                threshold=limit,
                evidence=f"{evidence}.",
                advice="The model uses statistics of the batch, as batch "
                "normalisation in training mode does, so the judgement of an "
                "example depends on others: re-export with training=False."
                if status == base.FAIL
                else "",
                source="TRADES (Zhang et al. 2019), issue 3 of its repository",
            )
        ]


def threshold(precision: str | None) -> float:
    """The change of a logit by rounding alone, relative to the largest one.

    Args:
        precision: Name of the type that the model computes in; None means
            float32.
    """
    if precision in (None, "float32"):
        return _THRESHOLD
    return _NUM_EPSILONS * _EPSILONS[precision]


def build() -> BatchInvariance:
    """Builds the diagnostic."""
    return BatchInvariance()
