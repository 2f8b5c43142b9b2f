"""N-FGSM: adversarial training by one step from strong noise, not clipped.

The augmented image may leave the ball of radius epsilon, up to (noise + 1)
epsilon, but not the box [0, 1]; this is what avoids the collapse of single-step
training.

References:
    de Jorge et al., "Make some noise: reliable and efficient single-step
    adversarial training", NeurIPS 2022, algorithm 1 and section 4 (k = 2,
    step size epsilon).
"""

import dataclasses

import tensorflow as tf

from ib_keras.attacks import geometry
from ib_keras.attacks import pgd
from ib_keras.objectives import base
from ib_keras.objectives import pgd_at


class _NFGSM(pgd.PGD):
    """One signed step from uniform noise of `noise` times epsilon."""

    def __init__(self, step_size, loss, noise):
        super().__init__(1, step_size, loss, True, 1)
        self.noise = noise

    def ball(self, images, threat_model):
        """The box alone; noise is drawn from the wider ball."""
        count = tf.shape(images)[0]
        return geometry.LinfBall(
            clean=images,
            lower=tf.zeros_like(images),
            upper=tf.ones_like(images),
            epsilon=tf.fill([count], self.noise * threat_model.epsilon),
        )


@base.register
@dataclasses.dataclass(frozen=True)
class NFGSMTraining(pgd_at.PGDTraining):
    """The standard objective at one step of size `step_size` from noise.

    Args:
        epsilon: Radius, l_inf, in pixel units of [0, 1].
        step_size: Of the one step; None for epsilon.
        num_steps: 1.
        random_start: True.
        loss: As `pgd_at.PGDTraining`.
        mode: As `pgd_at.PGDTraining`.
        rate_of: As `pgd_at.PGDTraining`.
        ramp_steps: As `pgd_at.PGDTraining`; noise grows with the radius.
        noise: k; noise is uniform in [-k epsilon, k epsilon].

    Raises:
        UserError: If a value cannot be used.
    """

    step_size: float | None = None  # type: ignore[assignment]
    num_steps: int = 1
    noise: float = 2.0

    def __post_init__(self):
        if self.step_size is None:
            object.__setattr__(self, "step_size", self.epsilon)
        super().__post_init__()

    @property
    def attack(self) -> pgd.PGD:
        """The adversary."""
        return _NFGSM(self.step_size, self.loss, self.noise)


def build(
    epsilon=0.3,
    step_size=None,
    noise=2.0,
    loss="cross_entropy",
    mode="mean",
    rate_of="adversarial",
    ramp_epochs=0.0,
    steps_per_epoch=None,
) -> NFGSMTraining:
    """Builds an `NFGSMTraining`.

    Args:
        epsilon: As `NFGSMTraining`.
        step_size: As `NFGSMTraining`.
        noise: As `NFGSMTraining`.
        loss: As `NFGSMTraining`.
        mode: As `NFGSMTraining`.
        rate_of: As `NFGSMTraining`.
        ramp_epochs: Epochs in which the radius grows from 0 to epsilon.
        steps_per_epoch: Turns epochs into steps.

    Raises:
        UserError: If a value cannot be used.
    """
    return NFGSMTraining(
        epsilon,
        step_size,
        loss=loss,
        mode=mode,
        rate_of=rate_of,
        noise=noise,
        ramp_steps=round(ramp_epochs * (steps_per_epoch or 0)),
    )
