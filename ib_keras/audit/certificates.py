"""What an audit proves beside what it attacks: a lower bound.

A `Prover` asks `ib_keras.certify` about the examples that the model gets right,
in their order; `Certificates` are what it found at one radius. Where a model
has no bounds, `Certificates.reason` says why and nothing is certified.

A certificate is one of two statements:

    exact        no image of the ball has another class: of models without noise
    fresh noise  for every image of the ball most answers are right, of noise
                 drawn anew, at a confidence of each example's statement

Judgements of an audit draw fresh noise, so certificates of the noise of one
seed, the third kind of `ib_keras.certify`, bound no number of an audit.
"""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras import certify
from ib_keras import files
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.audit import folder as folders
from ib_keras.audit.config import Certify
from ib_keras.audit.subject import Subject
from ib_keras.errors import ContradictionError
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.types import check_labels

EXACT, FRESH_NOISE = "exact", "fresh noise"

# The seed of certificates is folded with this, to differ from those of attacks.
_PURPOSE = 6
# Examples between two looks at whether to stop.
_BATCH = 64
# Radii are sought up to so many times epsilon, to within a 64th of epsilon.
_MOST_RADII = 4.0
_NUM_STEPS = 8


@dataclasses.dataclass(repr=False)
class Certificates:
    """What is proved of each example at one radius.

    Attributes:
        is_asked: bool `[examples]`: whether it was asked about.
        is_certified: bool `[examples]`.
        certified_by: int32 `[examples]`, the cheapest of `certify.METHODS` that
            proved it; -1 where none did, and of models with noise.
        certified_draws: int32 `[examples]`, seeds of noise that were certified;
            0 of models without noise.
        certified_radius: float64 `[examples]`, the largest radius that was
            proved; 0 where none was, or none was asked for.
        statement: `EXACT` or `FRESH_NOISE`; "" where nothing can be proved.
        reason: Why nothing can be proved; "" where something can.
        num_withdrawn: Certificates of fresh noise whose examples an attack
            broke nevertheless.
        seconds: Spent, over interruptions.
    """

    is_asked: np.ndarray
    is_certified: np.ndarray
    certified_by: np.ndarray
    certified_draws: np.ndarray
    certified_radius: np.ndarray
    statement: str = ""
    reason: str = ""
    num_withdrawn: int = 0
    seconds: float = 0.0

    @classmethod
    def blank(cls, count: int) -> "Certificates":
        """Nothing asked, nothing proved, of so many examples."""
        return cls(
            is_asked=np.zeros(count, bool),
            is_certified=np.zeros(count, bool),
            certified_by=np.full(count, -1, np.int32),
            certified_draws=np.zeros(count, np.int32),
            certified_radius=np.zeros(count),
        )

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The arrays by name, each with the prefix."""
        return {
            f"{prefix}{name}": value
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }

    def facts(self) -> dict[str, Any]:
        """What is of no single example, JSON values."""
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(value, np.ndarray)
        }

    @classmethod
    def merge(cls, parts: "Sequence[Certificates]") -> "Certificates":
        """Of shares of the examples those of all, in their order."""
        arrays = [part.arrays() for part in parts]
        said = [part.reason for part in parts if part.reason]
        statements = [part.statement for part in parts if part.statement]
        return cls(
            **{n: np.concatenate([a[n] for a in arrays]) for n in arrays[0]},
            statement=next(iter(statements), ""),
            reason=next(iter(said), ""),
            num_withdrawn=sum(part.num_withdrawn for part in parts),
            seconds=max(part.seconds for part in parts),
        )

    def give_up(self, why: str) -> None:
        """Proves nothing, of any example: a bound that failed is none."""
        blank = Certificates.blank(len(self.is_asked))
        for name, array in blank.arrays().items():
            setattr(self, name, array)
        self.is_asked[:] = True
        self.statement, self.reason = "", why


class Prover:
    """Proves what can be proved of one subject, at any radius.

    The graph is read when the first example is asked about, once for all radii.

    Args:
        config: An audit config.
        subject: What is audited.
    """

    def __init__(self, config: Mapping[str, Any], subject: Subject):
        self.asked = Certify.of(config)
        self._subject = subject
        self._seed = seeds.fold(seeds.from_int(config["seed"]), _PURPOSE)
        self._certifier: certify.Certifier | None = None
        self._reason = ""

    def prove(
        self,
        subject: Subject,
        rows: np.ndarray,
        epsilon: float,
        found: Certificates,
        on_batch: Callable[[Certificates], None] = lambda found: None,
    ) -> None:
        """Asks about examples that were not asked about before.

        Args:
            subject: Whose examples they are.
            rows: Positions of those that the model classifies correctly.
            epsilon: Radius of the l_inf balls.
            found: Changed in place.
            on_batch: Called after every batch, when `found` is consistent.
        """
        left = rows[~found.is_asked[rows]]
        for first in range(0, len(left), _BATCH):
            began = time.monotonic()
            batch = left[first : first + _BATCH]
            try:
                self._ask(subject, batch, epsilon, found)
            except (UserError, Interrupted):
                raise
            except Exception as error:  # A foreign graph can raise any.
                self._reason = (
                    f"the bounds cannot be computed: {type(error).__name__}, "
                    + reason(error, 300)
                )
                found.give_up(self._reason)
            found.is_asked[batch] = True
            found.seconds += time.monotonic() - began
            on_batch(found)
            if found.reason:
                return

    def _ask(self, subject, rows, epsilon, found) -> None:
        certifier = self._read()
        if certifier is None:
            found.give_up(self._reason)
            return
        images = subject.images[rows]
        labels = check_labels(
            subject.labels[rows], len(rows), certifier.num_classes
        )
        if certifier.is_random:
            found.statement = FRESH_NOISE
            said = certify.certify_over_noise(
                certifier,
                images,
                labels,
                epsilon,
                num_draws=self.asked.num_draws,
                confidence=self.asked.confidence,
                seed=self._seed,
            )
            found.is_certified[rows] = said.is_certified
            found.certified_draws[rows] = said.num_good
            return
        found.statement = EXACT
        proved = certifier.certify(images, labels, epsilon)
        found.is_certified[rows] = proved.is_certified
        found.certified_by[rows] = proved.method
        if self.asked.radius:
            most = min(_MOST_RADII * epsilon, 1.0)
            radius = certifier.radius(images, labels, most, _NUM_STEPS)
            # A search at another radius may be luckier by a hair; what is
            # said of epsilon is what `certify` says.
            found.certified_radius[rows] = np.where(
                proved.is_certified,
                np.maximum(radius, epsilon),
                np.minimum(radius, epsilon * (1 - 2.0**-6)),
            )

    def _read(self) -> certify.Certifier | None:
        """The certifier; None where there is none, for `_reason`."""
        if self._certifier is None and not self._reason:
            self._reason = strategies.why_inexact()
            if self._reason:
                return None
            subject = self._subject
            try:
                self._certifier = certify.Certifier(
                    subject.logits_fn,
                    subject.images.shape[1:],
                    self.asked.method,
                )
            except certify.NotCovered as error:
                self._reason = str(error)
            else:
                self._check_noise(self._certifier)
        return self._certifier

    def _check_noise(self, certifier) -> None:
        """Radii of models with noise are refused where this is seen late."""
        if certifier.is_random and self.asked.radius:
            raise UserError(
                "Certified radii are not of models with noise",
                received="certify.radius=True and a model that draws noise",
                expected="a model without noise, or no radii",
                fix="Set --config.certify.radius=False.",
            )


def settle(
    found: Certificates, ledger, images: np.ndarray, folder: str, epsilon: float
) -> None:
    """Sets certificates against what the attacks found.

    Of fresh noise a certificate may be wrong, as rarely as its confidence says,
    and so may a judgement: it is withdrawn. An exact one is never wrong.

    Args:
        found: Changed in place.
        ledger: What the attacks found.
        images: The clean ones.
        folder: Of the audit.
        epsilon: The radius.

    Raises:
        ContradictionError: If an example with an exact certificate was broken;
            it is in the folder.
    """
    rows = np.flatnonzero(found.is_certified & (ledger.broken_by_stage >= 0))
    if not len(rows):
        return
    if found.statement == FRESH_NOISE:
        found.is_certified[rows] = False
        found.num_withdrawn += len(rows)
        return
    path = files.join(folder, folders.CONTRADICTION)
    files.write_npz(
        path,
        {
            "index": rows,
            "label": ledger.label[rows],
            "images": images[rows],
            "adversarial_images": ledger.adversarial_images[rows],
            "adversarial_prediction": ledger.adversarial_prediction[rows],
            "certified_by": found.certified_by[rows],
            "epsilon": np.array(float(epsilon)),
        },
    )
    some = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
    method = certify.METHODS[found.certified_by[rows[0]]]
    raise ContradictionError(
        f"A certificate is contradicted: {len(rows)} examples ({some}) were "
        f"proved robust at epsilon {epsilon:g} by {method}, and an attack "
        "broke them. This is a fault of ib_keras, or of arithmetic that is not "
        "float32; no number of this audit counts. The examples are in "
        f"{path}: please report it with that file."
    )


def of_summary(
    asked: Certify, found: Certificates
) -> dict[str, float | dict[str, Any] | None]:
    """The fields of summary.json.

    Args:
        asked: The section of the config.
        found: The certificates.

    Returns:
        `certified_accuracy`, a share of all examples, None where the model has
        no bounds; and `certification`.
    """
    is_known = not found.reason
    has_noise = found.statement == FRESH_NOISE
    by_method = {
        name: int((found.is_certified & (found.certified_by == index)).sum())
        for index, name in enumerate(certify.METHODS)
    }
    return {
        "certified_accuracy": float(found.is_certified.mean())
        if is_known
        else None,
        "certification": {
            "method": asked.method,
            "statement": found.statement or None,
            "reason": found.reason or None,
            "num_certified": int(found.is_certified.sum()),
            "num_by_method": {n: c for n, c in by_method.items() if c},
            "num_draws": asked.num_draws if has_noise else None,
            "confidence": asked.confidence if has_noise else None,
            "num_withdrawn": found.num_withdrawn,
            "attack_certified": asked.attack_certified,
            "seconds": round(found.seconds, 3),
        },
    }


def of_examples(asked: Certify, found: Certificates) -> dict[str, np.ndarray]:
    """The arrays of examples.npz; none where nothing can be proved."""
    if found.reason:
        return {}
    arrays = found.arrays()
    kept = ["is_certified"]
    if found.statement == FRESH_NOISE:
        kept.append("certified_draws")
    else:
        kept.append("certified_by")
        if asked.radius:
            kept.append("certified_radius")
    return {name: arrays[name] for name in kept}
