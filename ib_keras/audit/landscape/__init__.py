"""Loss landscapes: cross-entropy and margin on a plane through an image.

`surface` computes one, `examples` chooses the examples and stores them in a
file, `of_audit` makes them for a finished audit.
"""

from ib_keras.audit.landscape.surface import FLAT
from ib_keras.audit.landscape.surface import Landscape
from ib_keras.audit.landscape.surface import LandscapeEvaluator
from ib_keras.audit.landscape.surface import compute
from ib_keras.audit.landscape.surface import describe
from ib_keras.audit.landscape.surface import plane

__all__ = [
    "FLAT",
    "Landscape",
    "LandscapeEvaluator",
    "compute",
    "describe",
    "plane",
]
