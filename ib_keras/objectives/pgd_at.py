"""Adversarial training: the standard objective on the images of PGD.

With `num_steps=1` and `step_size=1.25 * epsilon` it is the fast adversarial
training of Wong et al., which can collapse: see `training.monitor`.

References:
    Madry et al., "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018, equation 2.1 and section 5 (MNIST: epsilon 0.3, 40
    steps of 0.01; CIFAR-10: 8/255, 10 steps of 2/255 of the 7 or 20 there);
    Wong et al., "Fast is better than free", ICLR 2020, algorithm 3.
"""

import dataclasses

from ib_keras.attacks import pgd
from ib_keras.objectives import base
from ib_keras.objectives import crafting


@base.register
@dataclasses.dataclass(frozen=True)
class PGDTraining(base.Objective):
    """min over weights of the objective at the images that PGD finds.

    Args:
        epsilon: Radius of the adversary, l_inf, in pixel units of [0, 1].
        step_size: Of PGD, in pixel units.
        num_steps: Of PGD; each costs a gradient with respect to images.
        random_start: Whether PGD starts at a random point of the ball.
        loss: What PGD maximises: "cross_entropy", "margin" or "dlr".
        mode: Of the classifier that is attacked: "mean" or "stochastic".
        rate_of: "adversarial" or "clean": the images that the rate is of. The
            literature on adversarial training has no rate; the clean one costs
            a second pass through the encoder.
        ramp_steps: Steps in which the radius grows from 0 to epsilon. A large
            radius from the first step can leave a network at chance. The
            papers have no ramp of the radius; Wong et al. begin with small
            learning rates.

    Raises:
        UserError: If a value cannot be used.
    """

    epsilon: float = 0.3
    step_size: float = 0.01
    num_steps: int = 40
    random_start: bool = True
    loss: str = "cross_entropy"
    mode: str = "mean"
    rate_of: str = "adversarial"
    ramp_steps: int = 0

    @property
    def attack(self) -> pgd.PGD:
        """The adversary."""
        return pgd.PGD(
            self.num_steps, self.step_size, self.loss, self.random_start, 1
        )

    def __call__(self, model, images, labels, seed, step, training=True):
        adversarial = crafting.craft(
            self.attack,
            crafting.logits_fn(model, self.mode),
            images,
            labels,
            crafting.ramped(self.epsilon, self.ramp_steps, step),
            seed,
        )
        terms = model.terms(adversarial, labels, seed, step, training)
        if self.rate_of == "adversarial" or not model.is_stochastic:
            return terms
        clean = model.terms(images, labels, seed, step, training)
        return base.with_rate_of(terms, clean)


def build(
    epsilon=0.3,
    step_size=0.01,
    num_steps=40,
    random_start=True,
    loss="cross_entropy",
    mode="mean",
    rate_of="adversarial",
    ramp_epochs=0.0,
    steps_per_epoch=None,
) -> PGDTraining:
    """Builds a `PGDTraining`.

    Args:
        epsilon: As `PGDTraining`.
        step_size: As `PGDTraining`.
        num_steps: As `PGDTraining`.
        random_start: As `PGDTraining`.
        loss: As `PGDTraining`.
        mode: As `PGDTraining`.
        rate_of: As `PGDTraining`.
        ramp_epochs: Epochs in which the radius grows from 0 to epsilon.
        steps_per_epoch: Turns epochs into steps.

    Raises:
        UserError: If a value cannot be used.
    """
    return PGDTraining(
        epsilon,
        step_size,
        num_steps,
        random_start,
        loss,
        mode,
        rate_of,
        round(ramp_epochs * (steps_per_epoch or 0)),
    )
