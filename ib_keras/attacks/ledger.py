"""What a run knows of every example, and where it is: all that is saved."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Self

import numpy as np

from ib_keras import notebook


def _array(dtype, blank):
    """A field of arrays; `blank` is what an example has before it is asked."""
    return dataclasses.field(metadata={"dtype": dtype, "fill_value": blank})


@dataclasses.dataclass(repr=False)
class Attacked:
    """What attacks found of each example; every array is `[examples, ...]`.

    Attributes:
        adversarial_images: float32 `[examples, ...]`, the judged image where
            broken, else the iterate nearest to being wrong.
        adversarial_prediction: int32, by the judge.
        margin: float32, largest other logit - logit of the label at
            `adversarial_images`: the judge's where broken, else the largest
            that an attack saw.
        wrong_share: float32, share of draws of the model's noise on which a
            judged image is wrong: of the judgement that broke the example, or
            the largest of all judgements; 0 where nothing was judged.
        gradient_evaluations: int64.
        loss: float32, the largest loss of the last run.
        gradient_norm: float32, largest |gradient| at the last step of the
            last run; -1 where none was taken.
        num_zero_gradients: int64, gradients that were exactly zero.
        num_nonfinite: int64, evaluations with a number that was not finite.
    """

    adversarial_images: np.ndarray
    adversarial_prediction: np.ndarray = _array(np.int32, -1)
    margin: np.ndarray = _array(np.float32, -np.inf)
    wrong_share: np.ndarray = _array(np.float32, 0.0)
    gradient_evaluations: np.ndarray = _array(np.int64, 0)
    loss: np.ndarray = _array(np.float32, -np.inf)
    gradient_norm: np.ndarray = _array(np.float32, -1.0)
    num_zero_gradients: np.ndarray = _array(np.int64, 0)
    num_nonfinite: np.ndarray = _array(np.int64, 0)

    @classmethod
    def blank(cls, images: np.ndarray, **given: np.ndarray) -> Self:
        """Nothing asked, nothing broken.

        Args:
            images: The clean ones.
            **given: Arrays that are known.
        """
        arrays = {"adversarial_images": images.copy()} | given
        for field in dataclasses.fields(cls):
            if field.name not in arrays:
                arrays[field.name] = np.full(len(images), **field.metadata)
        return cls(**arrays)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, as `examples.npz` holds those of a ledger."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What gave these `arrays`; others among them are left.

        Raises:
            KeyError: If one is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: arrays[name] for name in names})

    def __getitem__(self, rows) -> Self:
        """The same of some of the examples."""
        return type(self)(**{n: a[rows] for n, a in self.arrays().items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Of several sets of examples those of one, in their order."""
        columns = [part.arrays() for part in parts]
        return cls(
            **{n: np.concatenate([c[n] for c in columns]) for n in columns[0]}
        )


@dataclasses.dataclass(repr=False)
class Result(Attacked):
    """What one run of an attack did to one batch.

    `adversarial_prediction` is -1 where not broken.

    Attributes:
        is_broken: bool, by the judge.
        step: int32, the first iterate at which the attack saw the example
            wrong, where broken; else that of `adversarial_images`.
    """

    is_broken: np.ndarray = _array(bool, False)
    step: np.ndarray = _array(np.int32, -1)


@dataclasses.dataclass(repr=False)
class Ledger(Attacked):
    """What is known of every audited example.

    `adversarial_prediction` is the clean one where not broken, and
    `adversarial_images` the clean ones for clean errors. When all stages are
    done `wrong_share` is taken once more, on fresh draws of the model's noise;
    it is 0 or 1 where the model has none. `gradient_evaluations` are those of
    the passes up to the one that broke the example. Where passes run side by
    side, what later ones took meanwhile is no part of the search and is not
    counted.

    Attributes:
        label: int32.
        clean_prediction: int32; -1 where the clean logits are not finite.
        is_robust: bool: right on the clean image and not broken.
        broken_by_stage: int32, -1 where not broken by an attack.
        broken_by_restart: int32, -1 where not broken.
        broken_by_target: int32, -1 where not broken, and of untargeted ones.
        broken_at_step: int32, -1 where not broken.
    """

    label: np.ndarray = _array(np.int32, -1)
    clean_prediction: np.ndarray = _array(np.int32, -1)
    is_robust: np.ndarray = _array(bool, False)
    broken_by_stage: np.ndarray = _array(np.int32, -1)
    broken_by_restart: np.ndarray = _array(np.int32, -1)
    broken_by_target: np.ndarray = _array(np.int32, -1)
    broken_at_step: np.ndarray = _array(np.int32, -1)

    @classmethod
    def new(cls, images: np.ndarray, labels: np.ndarray) -> "Ledger":
        """Nothing asked, nothing broken."""
        return cls.blank(images, label=labels.copy())

    def update(
        self, rows: np.ndarray, result: Result, position: "Position", target
    ) -> None:
        """Enters the result of one run.

        Args:
            rows: Whose it is.
            result: In their order.
            position: Of the pass.
            target: Of the pass; -1 for an untargeted attack.
        """
        for name in (
            "gradient_evaluations",
            "num_zero_gradients",
            "num_nonfinite",
        ):
            getattr(self, name)[rows] += getattr(result, name)
        self.loss[rows] = result.loss
        self.gradient_norm[rows] = result.gradient_norm
        # Of a robust example the nearest miss of all runs is kept.
        kept = result.is_broken | (result.margin > self.margin[rows])
        nearer = rows[kept]
        self.margin[nearer] = result.margin[kept]
        self.adversarial_images[nearer] = result.adversarial_images[kept]
        shares = np.maximum(self.wrong_share[rows], result.wrong_share)
        self.wrong_share[rows] = np.where(
            result.is_broken, result.wrong_share, shares
        )
        broken, found = rows[result.is_broken], result[result.is_broken]
        self.is_robust[broken] = False
        self.adversarial_prediction[broken] = found.adversarial_prediction
        self.broken_by_stage[broken] = position.stage
        self.broken_by_restart[broken] = position.restart
        self.broken_by_target[broken] = target
        self.broken_at_step[broken] = found.step

    @property
    def clean_accuracy(self) -> float:
        """Share of examples that the model gets right unattacked."""
        return float(np.mean(self.clean_prediction == self.label))

    @property
    def robust_accuracy(self) -> float:
        """Share of all examples that are right and not broken."""
        return float(np.mean(self.is_robust))

    @property
    def expected_accuracy(self) -> float:
        """Mean share of fresh draws on which the final images are right."""
        return float(np.mean(1.0 - self.wrong_share))

    def _rows(self) -> list[tuple[str, str]]:
        spent = int(self.gradient_evaluations.sum())
        return [
            ("examples", f"{len(self.label)}"),
            ("clean accuracy", f"{self.clean_accuracy:.1%}"),
            ("robust accuracy", f"{self.robust_accuracy:.1%}"),
            ("broken", f"{int((self.broken_by_stage >= 0).sum())}"),
            ("gradient evaluations", f"{spent}"),
        ]

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {value}" for name, value in self._rows())
        return f"<Ledger {said}>"

    def _repr_html_(self) -> str:
        return notebook.table(
            "Attack",
            self._rows(),
            "An upper bound of the robust accuracy: a stronger attack may "
            "break more.",
        )


@dataclasses.dataclass
class StageStatistics:
    """What one stage did so far.

    Attributes:
        num_attacked: Examples still robust when the stage began.
        gradient_evaluations: Spent by the stage.
        seconds: Spent by the stage, over interruptions.
        curve: One row after each pass (restart and target): restart, target,
            robust examples, gradient evaluations of the stage so far.
    """

    num_attacked: int = 0
    gradient_evaluations: int = 0
    seconds: float = 0.0
    curve: list[list[int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Position:
    """Where in the protocol a run is: the next batch to attack.

    A batch is named by the pass (stage, restart, target) and its number in
    it. With the ledger this is all that resuming needs: which examples were
    robust when the pass began follows from what was broken in it.
    """

    stage: int = 0
    restart: int = 0
    target: int = 0
    batch: int = 0
    clean_done: bool = False


@dataclasses.dataclass
class Progress:
    """The whole state of a run: ledger, position and statistics.

    Attributes:
        ledger: What is known of every example.
        position: The next batch.
        stages: What each stage did so far.
        spared: bool `[examples]`: which are not attacked though they are
            classified correctly, for nothing can break them; None for none.
    """

    ledger: Ledger
    position: Position
    stages: list[StageStatistics]
    spared: np.ndarray | None = None

    @property
    def is_open(self) -> np.ndarray:
        """Bool `[examples]`: robust so far, and not spared."""
        if self.spared is None:
            return self.ledger.is_robust
        return self.ledger.is_robust & ~self.spared


def merge(parts: Sequence[Progress]) -> Progress:
    """Puts shares of the examples together, all run to their ends.

    Args:
        parts: Of runners with the same stages, in the order of their examples.

    Returns:
        What one runner over all of them would have. Seconds are those of the
        slowest share, for shares run side by side.
    """
    ledger = Ledger.concatenate([part.ledger for part in parts])
    stages = []
    for statistics in zip(*(part.stages for part in parts), strict=True):
        passes = zip(*(b.curve for b in statistics), strict=True)
        rows = [np.array(same_pass) for same_pass in passes]
        stages.append(
            StageStatistics(
                num_attacked=sum(b.num_attacked for b in statistics),
                gradient_evaluations=sum(
                    b.gradient_evaluations for b in statistics
                ),
                seconds=max(b.seconds for b in statistics),
                curve=[
                    [*row[0, :2].tolist(), *row[:, 2:].sum(axis=0).tolist()]
                    for row in rows
                ],
            )
        )
    return Progress(ledger, parts[0].position, stages)
