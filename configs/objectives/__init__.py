"""Training objectives that a config of MNIST takes as a preset.

`--config=configs/mnist_vib.py:pgd_at` trains the bottleneck of that file by
another objective, on the network of the literature; `:pgd_at,smoke` does so in
seconds. All that changes is in sight here.
"""

import ml_collections

from configs import common

_EPSILON = 0.3  # l_inf, in pixel units of [0, 1]: that of the literature.
# PGD as Madry et al. have it on MNIST.
_PGD = dict(epsilon=_EPSILON, step_size=0.01, num_steps=40)
# At the full radius from the first step the small network stays at chance.
_RAMP = dict(ramp_epochs=5.0)  # In which the radius grows from 0; ours.
_ADVERSARY = dict(
    **_RAMP,
    loss="cross_entropy",  # What the adversary maximises.
    mode="mean",  # Of the classifier that it attacks; or "stochastic".
    rate_of="adversarial",  # The images that the rate is of; or "clean".
)

OBJECTIVES = {
    # No adversary: what the others are compared with.
    "standard": dict(name="standard"),
    "pgd_at": dict(name="pgd_at", **_PGD, random_start=True, **_ADVERSARY),
    # One step of 1.25 epsilon from a random start: fast, and it can collapse.
    "fgs_at": dict(
        name="pgd_at",
        **_PGD | dict(step_size=1.25 * _EPSILON, num_steps=1),
        random_start=True,
        **_ADVERSARY,
    ),
    "n_fgsm": dict(
        name="n_fgsm",
        epsilon=_EPSILON,
        step_size=_EPSILON,
        noise=2.0,  # Of noise before the step, in units of epsilon.
        **_ADVERSARY,
    ),
    "trades": dict(
        name="trades",
        beta=6.0,  # Weight of the divergence, 1/lambda of the paper.
        **_PGD,
        **_RAMP,
        mode="mean",
        rate_of="clean",
    ),
    "cure": dict(
        name="cure",
        gamma=4.0,  # Weight of the curvature.
        h=1.5,  # Step along the sign of the gradient, Euclidean length,
        anneal_epochs=5.0,  # which grows to that from 0.
        mode="mean",
    ),
    "llr": dict(
        name="llr",
        weight=4.0,  # Of the distance from linear, lambda of the paper.
        mu=3.0,  # Of the slope.
        epsilon=_EPSILON,
        step_size=0.1,
        num_steps=10,
        mode="mean",
    ),
    # A model that intervals prove robust, at the radius of the provable nets.
    "ibp": dict(
        name="ibp",
        epsilon=0.1,
        kappa=0.5,  # Share of the clean cross-entropy, in the end.
        warmup_epochs=1.0,  # With radius 0,
        ramp_epochs=10.0,  # and then growing.
        mode="mean",  # Of the classifier that is bounded; or "stochastic".
    ),
}


def split(preset: str) -> tuple[str, str | None]:
    """Takes a preset apart, such as "pgd_at,cpu".

    Args:
        preset: What follows the colon of --config.

    Returns:
        One of `common.PRESETS`, and the name of an objective or None.
    """
    parts = preset.split(",")
    found = [part for part in parts if part in OBJECTIVES]
    if len(found) > 1 or len(parts) - len(found) > 1:
        raise ValueError(
            f'Received preset "{preset}". Expected at most one objective of '
            f"{', '.join(OBJECTIVES)} and one size of "
            f"{', '.join(p for p in common.PRESETS if p)}, as in pgd_at,cpu. "
            "Correct what follows the colon of --config."
        )
    size = next((part for part in parts if part not in OBJECTIVES), "")
    common.check_preset(size, *OBJECTIVES)
    return size, found[0] if found else None


def apply(config: ml_collections.ConfigDict, objective: str) -> None:
    """Changes a training of MNIST to another objective, in place.

    Args:
        config: That of the standard objective.
        objective: One of `OBJECTIVES`.
    """
    config.objective = dict(OBJECTIVES[objective])
    config.encoder = dict(
        name="small_cnn",
        filters=(16, 32),  # Of each convolution, 4x4 of stride 2.
        hidden_units=(100,),  # Width of each dense layer behind them.
    )
    config.num_epochs = 20
    config.optim = dict(
        name="adam",
        learning_rate=1e-3,  # The initial one.
        beta_1=0.9,  # Keras' own, as in the literature.
        beta_2=0.999,
        decay_factor=0.8,
        decay_every_epochs=1,
    )
    # What FGS and PGD are measured on, which nothing is trained on.
    config.train.split = "train[:59000]"
    if objective == "standard":  # There is no robustness to lose.
        return
    config.monitor = dict(
        split="train[59000:]",
        epsilon=config.objective.get("epsilon", _EPSILON),
        step_size=0.03,  # Of PGD.
        num_steps=20,
        gap=0.25,  # FGS accuracy less PGD accuracy, above which
        action="warn",  # it is said that training collapses; or "stop".
    )
