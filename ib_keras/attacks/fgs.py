"""Fast gradient sign: one step of size epsilon from the image itself.

References:
    Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR
    2015; Korshunova et al. 2021, section 2.
"""

from ib_keras.attacks import base
from ib_keras.attacks import pgd


class FGS(pgd.PGD):
    """x + epsilon * sign(gradient) for l_inf, a unit vector for l2.

    Args:
        loss: "cross_entropy" (the paper's) or "margin".
        num_eot: Fresh draws of model noise the gradient is averaged over.
    """

    def __init__(self, loss, num_eot):
        super().__init__(1, 0.0, loss, random_start=False, num_eot=num_eot)

    def move(self, ball, images, gradient):
        """The one step, to the surface of the ball."""
        return ball.full_step(gradient)


def build(loss="cross_entropy", num_eot=1) -> FGS:
    """Builds an `FGS` attack from a config section."""
    return FGS(loss, base.check_count("num_eot", num_eot))
