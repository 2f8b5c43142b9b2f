"""Are the certificates of an audit folder consistent, and proved again?

The counts and rules are NumPy's. What interval propagation proved is bounded
again by `intervals`, which shares no code with `ib_keras.certify`; of what
CROWN proved, and of models that `intervals` cannot read, a sample is certified
again by the library itself.
"""

from typing import Any

import numpy as np
import scipy.stats

from ib_keras.audit.verify import claims
from ib_keras.audit.verify import intervals

# The examples that the library is asked about again.
_SAMPLE = 20

ARRAYS = {
    "is_certified": "b",
    "certified_by": "i",
    "certified_draws": "i",
    "certified_radius": "f",
}
_METHODS = ("ibp", "crown", "alpha_crown")


def asked(folder: claims.Folder) -> dict[str, Any]:
    """The section of the config, which older ones lack."""
    return {"method": "none", **(folder.config.get("certify") or {})}


def are_there(folder: claims.Folder) -> bool:
    """Whether the folder claims that any example is certified."""
    return "is_certified" in folder.arrays


def mask(folder: claims.Folder) -> np.ndarray:
    """Bool `[examples]`: which are claimed to be certified."""
    count = len(folder.arrays["label"])
    return folder.arrays.get("is_certified", np.zeros(count, bool))


def spared(folder: claims.Folder) -> np.ndarray:
    """Bool `[examples]`: which were not attacked for that."""
    if asked(folder).get("attack_certified"):
        return np.zeros_like(mask(folder))
    # A certificate that was withdrawn is of an example that was attacked.
    return mask(folder)


def arrays(folder: claims.Folder) -> list[str]:
    """The arrays of certificates are of their kinds, a row an example."""
    problems, count = [], len(folder.arrays["label"])
    for name, kind in ARRAYS.items():
        array = folder.arrays.get(name)
        if array is None:
            continue
        if array.shape != (count,) or array.dtype.kind != kind:
            problems.append(f"{name} is {array.dtype} {list(array.shape)}")
    return problems


def claims_hold(folder: claims.Folder) -> list[str]:
    """What is certified is right, unbroken and counted.

    Args:
        folder: Of one radius.
    """
    problems = arrays(folder)
    if problems:
        return problems
    found, said = folder.arrays, folder.summary.get("certification")
    section, certified = asked(folder), mask(folder)
    if section["method"] == "none":
        there = [n for n in ARRAYS if n in found]
        there += ["certification"] if said else []
        return [f"{n} is there, and none were asked for" for n in there]
    if said is None:
        return ["certification is missing, though the config asks for it"]
    problems += claims.differences("method", said["method"], section["method"])
    if said["reason"]:
        given = [n for n in ARRAYS if n in found]
        problems += [f"{n} is there, though nothing is proved" for n in given]
        problems += claims.differences(
            "certified_accuracy", folder.summary["certified_accuracy"], None
        )
        return problems
    right = found["clean_prediction"] == found["label"]
    rules = {
        "certified, though a clean error": certified & ~right,
        "certified, though broken": certified & (found["broken_by_stage"] >= 0),
        "certified, though not called robust": certified & ~found["is_robust"],
    }
    if not section["attack_certified"]:
        cost = found["gradient_evaluations"]
        rules["certified, and yet attacked"] = certified & (cost > 0)
    rules |= _rules_of_noise(section, found, certified)
    if said["statement"] == "exact":
        rules |= _rules_of_exact(folder, section, certified)
    problems += [
        f"{claims.rows(where)}: {rule}"
        for rule, where in rules.items()
        if where.any()
    ]
    return problems + _counts(folder, said, certified)


def _rules_of_exact(folder, section, certified):
    by = folder.arrays["certified_by"]
    allowed = _METHODS.index(section["method"])
    rules = {
        "certified_by does not fit": np.where(
            certified, (by < 0) | (by > allowed), by != -1
        )
    }
    if section.get("radius"):
        epsilon = float(folder.config["threat_model"]["epsilon"])
        radius = folder.arrays["certified_radius"]
        reaches = radius >= epsilon if epsilon else certified
        rules["certified_radius does not fit"] = (
            (reaches != certified) | (radius < 0) | ~np.isfinite(radius)
        )
    return rules


def _rules_of_noise(section, found, certified):
    """Enough good draws: as many as a fair coin gives less often than 1 - c."""
    if "certified_draws" not in found:
        return {}
    draws, good = section["num_draws"], found["certified_draws"]
    chance = scipy.stats.binom.sf(good - 1, draws, 0.5)
    enough = chance < 1 - section["confidence"]
    return {
        "certified by too few draws": certified & ~enough,
        "more good draws than there were": good > draws,
    }


def _counts(folder, said, certified):
    count = int(certified.sum())
    problems = claims.differences("num_certified", said["num_certified"], count)
    problems += claims.differences(
        "certified_accuracy",
        folder.summary["certified_accuracy"],
        float(certified.mean()),
    )
    if said["statement"] == "exact":
        by = folder.arrays["certified_by"]
        tally = {
            name: int((certified & (by == index)).sum())
            for index, name in enumerate(_METHODS)
        }
        problems += claims.differences(
            "num_by_method",
            said["num_by_method"],
            {name: n for name, n in tally.items() if n},
        )
    return problems


class Again:
    """Proves certificates again.

    Args:
        subject: The model and the clean examples.
    """

    def __init__(self, subject):
        self._subject = subject
        self._network = None
        self.problem = ""
        try:
            self._network = intervals.Network(
                subject.logits_fn, subject.images.shape[1:]
            )
        except intervals.NotReadableError as error:
            self.problem = str(error)
        except Exception as error:  # A foreign graph can raise any.
            self.problem = type(error).__name__

    def says(self, folder: claims.Folder) -> str:
        """The sentence if all are proved again."""
        in_numpy, by_library = self._rows(folder)
        parts = []
        if len(in_numpy):
            parts.append(f"{len(in_numpy)} are bounded again in NumPy")
        if len(by_library):
            why = f" ({self.problem} in NumPy)" if self.problem else ""
            parts.append(
                f"{len(by_library)} of {self._count(folder)} are certified "
                f"again by ib_keras.certify{why}"
            )
        return ", ".join(parts) or "there is no exact certificate to repeat"

    def _count(self, folder):
        return int(mask(folder).sum()) - len(self._rows(folder)[0])

    def _rows(self, folder):
        """Positions to bound in NumPy, and a sample for the library."""
        by = folder.arrays.get("certified_by")
        if by is None:
            return [], []
        certified = mask(folder)
        is_plain = certified & (by == 0) & (self._network is not None)
        others = np.flatnonzero(certified & ~is_plain)
        some = np.random.default_rng(0).permutation(others)[:_SAMPLE]
        return np.flatnonzero(is_plain), np.sort(some)

    def proves(self, folder: claims.Folder) -> list[str]:
        """Which certificates are not proved again."""
        epsilon = float(folder.config["threat_model"]["epsilon"])
        images, labels = self._subject.images, self._subject.labels
        in_numpy, by_library = self._rows(folder)
        certified, odd = mask(folder), np.zeros(len(labels), bool)
        for row in in_numpy:
            margins = self._network.margins(images[row], labels[row], epsilon)
            odd[row] = not margins.min() > 0
        if len(by_library):
            from ib_keras import certify

            try:
                certifier = certify.Certifier(
                    self._subject.logits_fn,
                    images.shape[1:],
                    asked(folder)["method"],
                )
                found = certifier.certify(
                    images[by_library], labels[by_library], epsilon
                )
            except certify.NotCovered as error:
                return [f"{claims.rows(certified)}: not proved again: {error}"]
            odd[by_library] = ~found.is_certified
        return [f"{claims.rows(odd)}: not proved again"] if odd.any() else []
