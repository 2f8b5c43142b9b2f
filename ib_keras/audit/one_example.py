"""The result of an audit for one example: in words and as a picture."""

import io

import numpy as np

from ib_keras import files
from ib_keras.audit import examples
from ib_keras.audit import folder as folders
from ib_keras.audit import summary as summaries
from ib_keras.audit.report import outcomes
from ib_keras.errors import UserError

_NEEDED = {
    "index",
    "label",
    "is_robust",
    "clean_prediction",
    "adversarial_prediction",
    "adversarial_images",
    "margin",
    "wrong_share",
    "broken_by_stage",
    "broken_by_restart",
    "broken_by_target",
    "broken_at_step",
    "gradient_evaluations",
}


class OneExample:
    """One row of an audit folder.

    Args:
        folder: A finished audit.
        index: Of the example in its data set's split.

    Raises:
        UserError: If the folder is not a finished audit, or has no such
            example.
    """

    def __init__(self, folder: str, index: int):
        self._summary = summaries.read(folder)
        found = files.read_npz(files.join(folder, folders.EXAMPLES))
        lacking = _NEEDED - set(found)
        if lacking:
            raise UserError(
                "The examples of the audit are incomplete",
                received=f"{folder} without {', '.join(sorted(lacking))}",
                expected="the examples.npz that launch.audit wrote",
                fix="Run launch.verify on it.",
            )
        rows = np.flatnonzero(found["index"] == index)
        if not len(rows):
            known = found["index"]
            raise UserError(
                "The audit has no such example",
                received=f"index {index}",
                expected=f"one of the {len(known)} from {known.min()} to "
                f"{known.max()}",
                fix="Set --index to it.",
            )
        self.index = index
        self._row = {name: values[rows[0]] for name, values in found.items()}
        clean = examples.of_folder(folder, self._summary.model)
        self.clean = None if clean is None else clean[rows[0]]
        self.adversarial = self._row["adversarial_images"]
        self.outcome = outcomes.of(self._row)

    def lines(self) -> list[str]:
        """The result, one sentence per line."""
        row, summary = self._row, self._summary
        said = [
            f"Example {self.index} of {summary.dataset['name']}, "
            f"{summary.dataset['split']}: label {row['label']}, clean "
            f"prediction {row['clean_prediction']}."
        ]
        said.append(self._what_became())
        said.append(
            f"Margin {row['margin']:.4g} (above 0 is wrong), "
            f"{row['gradient_evaluations']} gradient evaluations."
        )
        if self._is_random:
            said.append(
                f"Wrong in {100 * row['wrong_share']:.0f}% of fresh draws."
            )
            said += filter(None, [outcomes.note(row)])
        if self.clean is not None:
            moved = self.adversarial - self.clean
            said.append(
                f"Distance linf {np.abs(moved).max():.5g}, l2 "
                f"{np.sqrt(np.sum(moved.astype(np.float64) ** 2)):.5g}."
            )
        else:
            said.append(
                "Its data are not available: no clean image, no distance."
            )
        return said

    @property
    def _is_random(self) -> bool:
        return (self._summary.num_judge_samples or 1) > 1

    def _what_became(self) -> str:
        row = self._row
        if self.outcome == outcomes.WRONG:
            return "Wrong before any attack, so not attacked."
        if self.outcome == outcomes.CERTIFIED:
            return "Certified: it is proved that nothing in the ball breaks it."
        if self.outcome == outcomes.ROBUST:
            return "Robust: no stage broke it; the picture is the nearest miss."
        stage = self._summary.stages[int(row["broken_by_stage"])]
        target = int(row["broken_by_target"])
        return (
            f"Broken by {stage.name}, restart {row['broken_by_restart'] + 1}"
            + (f", target {target}" if target >= 0 else "")
            + f", step {row['broken_at_step']}: predicted "
            f"{row['adversarial_prediction']}."
        )

    def write_picture(self, path: str) -> None:
        """Writes the clean image, that after the attack and their difference.

        Args:
            path: A PNG, or an SVG by its name. If the data are not available it
                has the image after the attack alone. The difference is grey
                where nothing changed, and scaled to the largest change.
        """
        from matplotlib import figure as figures

        panels = {outcomes.NOUNS[self.outcome]: self.adversarial}
        if self.clean is not None:
            moved = self.adversarial - self.clean
            largest = max(float(np.abs(moved).max()), 1e-12)
            name = f"difference, to {largest:.3g}"
            panels = {"clean": self.clean, **panels}
            panels[name] = 0.5 + moved / (2 * largest)
        picture = figures.Figure(figsize=(2.2 * len(panels), 2.5))
        axes = picture.subplots(1, len(panels), squeeze=False)[0]
        for axis, (name, image) in zip(axes, panels.items(), strict=True):
            image = np.clip(image, 0.0, 1.0)
            if image.shape[-1] not in (3, 4):
                image = image.mean(axis=-1)
            axis.imshow(
                image, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axis.set_title(name, fontsize=9)
            axis.set_axis_off()
        kind = "svg" if path.endswith(".svg") else "png"
        content = io.BytesIO()
        picture.savefig(content, format=kind, dpi=120, bbox_inches="tight")
        files.write_bytes(path, content.getvalue())
