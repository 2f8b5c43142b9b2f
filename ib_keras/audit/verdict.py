"""The verdict: whether an audit's number can be believed, by fixed rules.

| verdict | when |
|---|---|
| invalid | a check of validity fails: the number is wrong |
| upper bound only | a check of obfuscation fails, or one was not run, and an \
example is robust |
| can be believed | otherwise |

Warnings are reported and have no effect. Signs of obfuscation have none where
the number is known in spite of them, at every radius of the audit:

* no example is robust: an upper bound of zero is exact;
* certified and robust accuracy are within a point: the truth lies between them,
  whatever the gradients look like. Checks of validity must still have been run.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

BELIEVABLE = "believable"
UPPER_BOUND = "upper_bound"
INVALID = "invalid"

# From best to worst.
LABELS = (BELIEVABLE, UPPER_BOUND, INVALID)
WORDS = {
    BELIEVABLE: "the number can be believed",
    UPPER_BOUND: "upper bound only: signs of gradient obfuscation",
    INVALID: "invalid",
}

# Checks whose failure makes the number invalid; every other failure is a sign
# that a stronger attack would lower it.
VALIDITY = ("D12", "D23", "D25", "D32", "D33", "M1", "M2", "M4")

# Checks that have to be run for a believable number.
NEEDED = (
    "D1",
    "D2",
    "D3",
    "D4",
    "D6",
    "D7",
    "D8",
    "D10",
    "D11",
    "D33",
    "M3",
)
# And of a model with noise.
NEEDED_WITH_NOISE = ("D22", "D23")

# The most that robust accuracy may exceed certified accuracy, as shares.
CLOSED = 0.01
# One example of a hundred is a point, whatever float64 makes of it.
_TINY = 1e-9

_MOST_ADVICE = 5


def decide(
    findings: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Applies the rules.

    Args:
        findings: As findings.json holds them.
        summary: What summary.json holds.

    Returns:
        `label`, one of `LABELS`; `sentence`; `decided_by`, a list of `{"id",
        "why"}`; `next`, what to do.
    """
    failed = [f for f in findings if f["status"] == "fail"]
    invalid = [f for f in failed if f["id"] in VALIDITY]
    if invalid:
        return _verdict(
            INVALID,
            "The number is not what it says it is, whatever the attack.",
            [(f["id"], f["evidence"]) for f in invalid],
            invalid,
        )
    if _none_is_robust(summary):
        return _verdict(
            BELIEVABLE,
            "No example is robust, and no attack can lower zero.",
            [],
            [],
        )
    is_closed = _bracket_is_closed(summary)
    signs = [(f["id"], f["evidence"]) for f in failed if not is_closed]
    answered = {f["id"] for f in findings if "error" not in f["data"]}
    needed: tuple[str, ...] = NEEDED
    if (summary.get("num_judge_samples") or 1) > 1:
        needed += NEEDED_WITH_NOISE
    signs += [
        (id, "This check was not run.")
        for id in needed
        if id not in answered and (id in VALIDITY or not is_closed)
    ]
    if signs:
        return _verdict(
            UPPER_BOUND,
            "A stronger attack is likely to lower the number."
            + _after_checks(findings),
            signs,
            failed,
        )
    if is_closed:
        return _verdict(
            BELIEVABLE, _says_bracket(summary) + _after_checks(findings), [], []
        )
    warned = sum(f["status"] == "warn" for f in findings)
    asked = sum(f["status"] != "not applicable" for f in findings)
    return _verdict(
        BELIEVABLE,
        f"None of {asked} checks found that the number is too high; "
        f"{warned} of them warn." + _after_checks(findings),
        [],
        [],
    )


def _verdict(label, sentence, decided_by, findings):
    advice = dict.fromkeys(f["advice"] for f in findings if f["advice"])
    return {
        "label": label,
        "sentence": sentence,
        "decided_by": [{"id": id, "why": why} for id, why in decided_by],
        "next": list(advice)[:_MOST_ADVICE],
    }


def _after_checks(findings) -> str:
    """What is left of the number less all that the checks broke.

    Where the interval of their excess has the point that decides inside, other
    examples could well have led to the other verdict, and that is said.
    """
    said = [f for f in findings if f["id"] == "M3"]
    data = said[0]["data"] if said else {}
    if not data.get("num_broken"):
        return ""
    left = data["robust_accuracy_after_checks"]
    low, high = data["excess_ci95"]
    sentence = (
        f" After the checks {100 * left:.3g}% are left at radius "
        f"{data['epsilon']:.4g}."
    )
    if low < said[0]["threshold"] < high:
        sentence += (
            f" Borderline: what they broke is between {100 * low:.2g} and "
            f"{100 * high:.2g} points with 95% confidence, and "
            f"{100 * said[0]['threshold']:g} decides."
        )
    return sentence


def _none_is_robust(summary):
    """Whether no example is robust at any radius of the audit."""
    points = [summary, *summary.get("epsilon_curve", ())]
    return all(point["robust_accuracy"] == 0.0 for point in points)


def _bracket_is_closed(summary) -> bool:
    """Whether what is proved and what is attacked meet at every radius."""
    points = [summary, *summary.get("epsilon_curve", ())]
    gaps = [
        point["robust_accuracy"] - point["certified_accuracy"]
        for point in points
        if point.get("certified_accuracy") is not None
    ]
    return len(gaps) == len(points) and max(gaps) <= CLOSED + _TINY


def _says_bracket(summary) -> str:
    low, high = summary["certified_accuracy"], summary["robust_accuracy"]
    said = (
        f"Certified accuracy, {100 * low:.4g}%, is within a point of the "
        f"robust accuracy, {100 * high:.4g}%: the truth lies between them, "
        "whatever the gradients look like."
    )
    confidence = summary["certification"]["confidence"]
    if confidence is not None:
        said += (
            f" Certificates are of fresh noise, each at {100 * confidence:g}% "
            "confidence."
        )
    return said


def is_as_bad(label: str, than: str) -> bool:
    """Whether a verdict is as bad as another, or worse."""
    return LABELS.index(label) >= LABELS.index(than)
