"""D25: is an image answered by itself?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_THRESHOLD = 1e-4


class BatchInvariance:
    """Reads how logits differ between batches of 64, 7, 1 and in disorder."""

    cost = "free"
    ids = ("D25",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D25."""
        seen = case.subject.behaviour
        difference = seen.batch_difference
        if difference is None:
            status = base.NOT_APPLICABLE
            evidence = "Equal calls differ already, so batches are not compared"
        else:
            status = base.FAIL if difference > _THRESHOLD else base.PASS
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
                threshold=_THRESHOLD,
                evidence=f"{evidence}.",
                advice="The model uses statistics of the batch, as batch "
                "normalisation in training mode does, so an example's verdict "
                "is not its own: re-export with training=False."
                if status == base.FAIL
                else "",
                source="TRADES (Zhang et al. 2019), issue 3 of its repository",
            )
        ]


def build() -> BatchInvariance:
    """Builds the diagnostic."""
    return BatchInvariance()
