"""Information-bottleneck classifiers in Keras, and audits of robustness.

    import keras
    import ib_keras

    model = keras.Sequential(
        [cnn, ib_keras.VIBLayer(64, beta=1e-2), keras.layers.Dense(10)]
    )
    model.compile(...)
    model.fit(images, labels)

    ib_keras.attack(model, images, labels, "pgd", epsilon=8 / 255)
    ib_keras.audit(model, images, labels, epsilon=8 / 255)
    ib_keras.export.save(model, "saved_model")

Names are imported when they are first used: `import ib_keras` is quick and does
not import TensorFlow. Everything else is in the modules; docs/ has a manual.
"""

import logging as _logging
import os as _os
import sys as _sys
from typing import TYPE_CHECKING

from ib_keras import backend as _backend
from ib_keras import lazy as _lazy
from ib_keras.version import __version__

if TYPE_CHECKING:  # For editors; at run time `_HOMES` below is used.
    from ib_keras import attacks as attacks
    from ib_keras import audit as audit
    from ib_keras import export as export
    from ib_keras import layers as layers
    from ib_keras import tracking as tracking
    from ib_keras.attacks.runner import run as attack
    from ib_keras.audit.callback import AuditCallback
    from ib_keras.bottlenecks.ceb import CEB
    from ib_keras.bottlenecks.deterministic import Deterministic
    from ib_keras.bottlenecks.layer import CEBLayer
    from ib_keras.bottlenecks.layer import VIBLayer
    from ib_keras.bottlenecks.vib import VIB
    from ib_keras.classifier import IBClassifier
    from ib_keras.errors import UserError
    from ib_keras.layers import ClassConditionalGaussian
    from ib_keras.layers import DiagonalGaussian
    from ib_keras.layers import PointMass
    from ib_keras.layers import PointMassOnFeatures
    from ib_keras.layers import StandardNormal
    from ib_keras.layers import UnitGaussian
    from ib_keras.training.callback import RateCallback

__all__ = [
    "CEB",
    "VIB",
    "AuditCallback",
    "CEBLayer",
    "ClassConditionalGaussian",
    "Deterministic",
    "DiagonalGaussian",
    "IBClassifier",
    "PointMass",
    "PointMassOnFeatures",
    "RateCallback",
    "StandardNormal",
    "UnitGaussian",
    "UserError",
    "VIBLayer",
    "__version__",
    "attack",
    "attacks",
    "audit",
    "export",
    "layers",
    "tracking",
]

# Name -> its module, as `lazy.names` takes it.
_HOMES = {
    "CEB": "bottlenecks.ceb",
    "VIB": "bottlenecks.vib",
    "AuditCallback": "audit.callback",
    "CEBLayer": "bottlenecks.layer",
    "ClassConditionalGaussian": "layers",
    "Deterministic": "bottlenecks.deterministic",
    "DiagonalGaussian": "layers",
    "IBClassifier": "classifier",
    "PointMass": "layers",
    "PointMassOnFeatures": "layers",
    "RateCallback": "training.callback",
    "StandardNormal": "layers",
    "UnitGaussian": "layers",
    "UserError": "errors",
    "VIBLayer": "bottlenecks.layer",
    "attack": "attacks.runner:run",
    "attacks": "attacks",
    "audit": "audit",
    "export": "export",
    "layers": "layers",
    "tracking": "tracking",
}

__getattr__ = _lazy.names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


_backend.guard()

# Read once, when TensorFlow is imported; the user's own settings are kept.
if "tensorflow" not in _sys.modules:
    # Its C++ code logs nothing that a user can act on; errors are raised as
    # exceptions regardless.
    _os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN's kernels, which TensorFlow takes by itself only on CPUs with
    # AVX512_VNNI or AMX. Measured on one without: the gradient of the MNIST
    # MLP takes 35.1 ms in place of 50.9 at batch 500, 1.7 in place of 10.0 at
    # batch 6.
    _os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _is_for_users(record: _logging.LogRecord) -> bool:
    """Whether a message of TensorFlow's is about the user's code, not ours."""
    text = str(record.msg)
    if text.startswith("Assets written to"):  # In notebooks, by `export.save`.
        return ".tmp-" not in str(record.args)
    return "triggered tf.function retracing" not in text


_logging.getLogger("tensorflow").addFilter(_is_for_users)
