"""The safety of loading: a model is a program, so it is read before it runs.

    report = safety.check(path)
    with safety.loadable(path, report) as folder:
        loaded = tf.saved_model.load(folder)

A seat belt, not a sandbox: `docs/safety.md` says against what it protects.
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
