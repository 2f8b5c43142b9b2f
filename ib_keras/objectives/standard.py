"""The objective of the paper: cross-entropy and the weighted rate.

References:
    Korshunova et al. 2021, equations 2 and 3.
"""

import dataclasses

from ib_keras.objectives import base


@base.register
@dataclasses.dataclass(frozen=True)
class Standard(base.Objective):
    """E_z[-log q(y|z)] + weight * rate, on the images as they are."""

    def __call__(self, model, images, labels, seed, step, training=True):
        return model.terms(images, labels, seed, step, training)


def build(steps_per_epoch: int | None = None) -> Standard:
    """Builds the `Standard` objective.

    Args:
        steps_per_epoch: Of no use here.
    """
    del steps_per_epoch
    return Standard()
