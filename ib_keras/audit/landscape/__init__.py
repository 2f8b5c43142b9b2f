"""Loss landscapes: cross-entropy and margin on a plane through an image.

`surface` computes one, `examples` chooses whose and keeps them in a file,
`of_audit` makes them for a finished audit and `records` for a trained model;
`drawing` and `relief` draw them.
"""

from ib_keras import lazy

__all__ = [
    "FLAT",
    "Landscape",
    "LandscapeEvaluator",
    "compute",
    "describe",
    "plane",
]

__getattr__ = lazy.names(__name__, dict.fromkeys(__all__, "surface"))
