"""The states of a VM and of a queued resource, by what they mean to us."""

# Nodes: https://docs.cloud.google.com/tpu/docs/reference/rest/v2/projects.
# locations.nodes; requests: the same, .queuedResources.
READY, WAITING, LOST, STOPPED = "ready", "waiting", "lost", "stopped"
MISSING = "NOT_FOUND"

_LOST = (
    "FAILED",
    "SUSPENDED",
    "PREEMPTED",
    "TERMINATED",
    "UNKNOWN",
    MISSING,
)
_STOPPED = ("STOPPED", "STOPPING", "HIDDEN", "HIDING")


def meaning(state: str) -> str:
    """What to do about a state.

    Args:
        state: As `gcloud` writes it, or MISSING.

    Returns:
        READY: it can be used; WAITING: look again later, also for a state that
        is new to us; LOST: it never comes back, so delete it and create it
        again; STOPPED: somebody has stopped it on purpose.
    """
    if state in ("ACTIVE", "READY"):
        return READY
    if state in _LOST:
        return LOST
    return STOPPED if state in _STOPPED else WAITING


def of_request(described: dict) -> str:
    """The state of a described queued resource."""
    return str((described.get("state") or {}).get("state", "UNSPECIFIED"))


def of_node(described: dict) -> str:
    """The state of a described VM."""
    return str(described.get("state", "UNSPECIFIED"))
