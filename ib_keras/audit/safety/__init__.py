"""The safety of loading: a model is a program, so it is checked before it runs.

    report = safety.check(path)
    with safety.loadable(path, report) as folder:
        loaded = tf.saved_model.load(folder)

It is not a sandbox: `docs/safety.md` says what it protects against.
"""

from ib_keras import lazy

__all__ = [
    "RULES_VERSION",
    "Limits",
    "Report",
    "check",
    "inspect",
    "loadable",
]

__getattr__ = lazy.names(
    __name__,
    {
        "RULES_VERSION": "report",
        "Limits": "report",
        "Report": "report",
        "check": "checking",
        "inspect": "checking",
        "loadable": "checking",
    },
)
