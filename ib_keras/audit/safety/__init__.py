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
    "batch_sizes",
    "check",
    "finish",
    "inspect",
    "loadable",
]

__getattr__ = lazy.names(
    __name__,
    {
        "RULES_VERSION": "report",
        "Limits": "report",
        "Report": "report",
        "batch_sizes": "probe",
        "check": "checking",
        "finish": "probe",
        "inspect": "checking",
        "loadable": "checking",
    },
)
