"""Verification: recomputes the claims of an audit folder by independent code.

Nothing of the attacks' loops, judges or geometry is used here. `claims` are
arithmetic on the folder's own arrays, `tallies` the counts of its summary,
`provenance` the model, the data and the files; `rescoring` evaluates the model
again, and `verification` combines them.
"""

from ib_keras import lazy

__all__ = ["Verification", "verify"]

__getattr__ = lazy.names(
    __name__,
    {
        "Verification": "verification",
        "verify": "verification",
    },
)
