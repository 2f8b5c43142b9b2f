"""Audits: how robust a model is, and whether that number can be believed.

    result = ib_keras.audit(model, images, labels, epsilon=8 / 255)
    result = ib_keras.audit("saved_model", workdir="audits/vib")
    result.robust_accuracy, result.verdict
    result.report()

`ib_keras.audit` is this package and can be called, which is `audit.run`: were
it a function of that name, the next `import ib_keras.audit.callback` would put
the package in its place. A module may have a class of its own for such ends
(the Python Language Reference, 3.3.2.1, "Customizing module attribute access").
"""

import sys
import types

from ib_keras import lazy

__all__ = ["AuditCallback", "AuditResult", "load", "run"]

__getattr__ = lazy.names(
    __name__,
    {
        "AuditCallback": "callback",
        "AuditResult": "result",
        "load": "result",
        "run": "function",
    },
)


class _CallablePackage(types.ModuleType):
    def __call__(self, *arguments, **keywords):
        """As `audit.run`, which says what the arguments are."""
        return self.run(*arguments, **keywords)


sys.modules[__name__].__class__ = _CallablePackage
