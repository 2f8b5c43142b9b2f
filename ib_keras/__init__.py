"""Information-bottleneck classifiers in Keras, and audits of robustness."""

from ib_keras.version import __version__

__all__ = ["__version__"]
