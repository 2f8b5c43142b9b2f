"""The names of what an audit folder holds."""

from ib_keras import files

SUMMARY = "summary.json"
EXAMPLES = "examples.npz"
FINDINGS = "findings.json"
SAFETY = "safety.json"
# What safety.json has and the summary has not: long, or other each time.
SAFETY_ALONE = ("ops", "path", "probe", "seconds")

RADIUS_PREFIX = "epsilon_"


def radius_name(epsilon: float) -> str:
    """The folder's name of another radius than the audit's own."""
    return f"{RADIUS_PREFIX}{float(epsilon)!r}"


def radius(workdir: str, epsilon: float) -> str:
    """The folder of another radius than the audit's own."""
    return files.join(workdir, radius_name(epsilon))
