"""Certificates: examples whose class no image of an l_inf ball changes.

An attack that finds nothing proves nothing; a bound of the logits does. The
package reads the graph of a function from images to logits, of any code, and
bounds it soundly over the ball, rounding in float32 included:

    ibp          interval bound propagation (`bounds.py`)
    crown        linear bounds, propagated backwards (`search.py`)
    alpha_crown  the same, their slopes sought by gradient (`slopes.py`)

`operations.TABLE` lists the operations that have bounds; a model with others is
`NotCovered`. See docs/certification.md for what is proved and what is not.

    certifier = Certifier(logits_fn, image_shape=(28, 28, 1), method="crown")
    certifier.certify(images, labels, epsilon=0.1).is_certified
"""

from ib_keras.certify.certifier import Certificate
from ib_keras.certify.certifier import Certifier
from ib_keras.certify.graph import NotCovered
from ib_keras.certify.noise import NoiseCertificate
from ib_keras.certify.noise import certify_over_noise
from ib_keras.certify.search import METHODS

__all__ = (
    "METHODS",
    "Certificate",
    "Certifier",
    "NoiseCertificate",
    "NotCovered",
    "certify_over_noise",
)
