"""The result of an audit, for Python and notebooks."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from ib_keras import files
from ib_keras import notebook
from ib_keras.audit import examples
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load as loading
from ib_keras.audit.report import text


@dataclasses.dataclass(frozen=True, eq=False)
class AuditResult:
    """A finished audit.

    Attributes:
        audit: The content of the folder, read and checked.
        clean_images: float32 `[examples, ...]`; None if not available.
    """

    audit: loading.Audit
    clean_images: np.ndarray | None = None

    @property
    def folder(self) -> str:
        """The audit folder."""
        return self.audit.folder

    @property
    def clean_accuracy(self) -> float:
        """Share of examples that are classified correctly without attack."""
        return self.audit.clean_accuracy

    @property
    def robust_accuracy(self) -> float:
        """Share of all examples that are robust."""
        return self.audit.robust_accuracy

    @property
    def robust_interval(self) -> tuple[float, float]:
        """The 95% interval of `robust_accuracy`."""
        return self.audit.robust_interval

    @property
    def certified_accuracy(self) -> float | None:
        """Share of all examples that are proved robust, a lower bound.

        None where nothing was asked for or can be proved.
        """
        return self.audit.certified_accuracy

    @property
    def verdict(self) -> str | None:
        """One of "believable", "upper_bound", "invalid"; None without checks.

        It says whether the robust accuracy can be believed.
        """
        found = verdicts.of(self.audit)
        return found.label if found else None

    @property
    def examples(self) -> Mapping[str, np.ndarray]:
        """The arrays of `examples.npz`, among them `adversarial_images`."""
        return self.audit.examples

    def report(self, path: str | None = None) -> "Page":
        """Writes the page of the audit; a notebook shows it inline.

        Args:
            path: The file; None for report.html in the audit folder.

        Returns:
            The `Page`.

        Raises:
            UserError: If it cannot be written.
        """
        from ib_keras.audit import report

        path = path or files.join(self.folder, "report.html")
        clean = {}
        if self.clean_images is not None:
            clean[self.folder] = self.clean_images
        return Page(report.write([self.folder], path, clean), self)

    def _rows(self) -> list[tuple[str, str]]:
        audit = self.audit
        low, high = audit.robust_interval
        norm, epsilon = audit.threat_model.norm, audit.threat_model.epsilon
        return [
            ("protocol", f"{text.clean(audit.protocol)}, {audit.mode} mode"),
            ("threat model", f"{text.NORMS[norm]}, epsilon {epsilon:.4g}"),
            ("examples", f"{audit.num_examples}"),
            ("clean accuracy", text.percent(audit.clean_accuracy)),
            (
                "robust accuracy",
                f"{text.percent(audit.robust_accuracy)} (95% interval "
                f"{text.percent(low)} to {text.percent(high)})",
            ),
            *self._certified(),
            ("verdict", self._sentence()),
        ]

    def _certified(self) -> list[tuple[str, str]]:
        low, high = self.certified_accuracy, self.audit.robust_accuracy
        if low is None:
            return []
        return [("certified accuracy", text.bracket(low, high))]

    def _sentence(self) -> str:
        found = verdicts.of(self.audit)
        if found is None:
            return "none, for no diagnostics were run"
        return text.clean(verdicts.sentence(found))

    def __repr__(self) -> str:
        said = "; ".join(f"{name}: {value}" for name, value in self._rows())
        return f"<AuditResult {said}>"

    def _repr_html_(self) -> str:
        return notebook.table(
            "Audit", self._rows(), f"Folder: {text.clean(self.folder)}"
        )


@dataclasses.dataclass(frozen=True)
class Page:
    """A report that was written, which a notebook shows inline.

    Attributes:
        path: Of the file.
        result: The audit, which keeps a temporary folder alive.
    """

    path: str
    result: AuditResult = dataclasses.field(repr=False)

    def __fspath__(self) -> str:
        return self.path

    def _repr_html_(self) -> str:
        return notebook.frame(files.read_text(self.path))


def load(folder: str, clean_images: np.ndarray | None = None) -> AuditResult:
    """Reads a finished audit, however it was started.

    Args:
        folder: The audit folder.
        clean_images: The examples before the attack, for the report; None
            loads them if the data of the config are available.

    Returns:
        An `AuditResult`.

    Raises:
        UserError: If the folder is not a finished audit.
    """
    folder = os.fspath(folder)
    audit = loading.load(folder)
    if clean_images is None:
        clean_images = examples.of_folder(folder, audit.model)
    return AuditResult(audit, clean_images)
