r"""The linear classifier on the toy problem of Tsipras et al. (equation 4).

python -m launch.train --config=configs/toy_tsipras_linear.py \
    --workdir=runs/toy_tsipras_linear

Takes 16 s on 2 CPU cores. Expect 99.9% on the test split
and 0.4% on the adversarial one (seed 0, measured). A pixel is 1/2 + x/16, and
the model computes on x; see toy_tsipras_vib.py.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    common.check_preset(preset)
    config = ml_collections.ConfigDict()
    # The numbers are of the paper's appendix,
    # "Toy example from Tsipras et al."; what it does not say is marked as ours.
    config.seed = 0  # Of the initial weights, the batches and the noise.
    config.num_epochs = 200  # Of one batch each, newly drawn.
    config.num_samples = 12  # S, draws of z an example.
    config.steps_per_call = 100  # Steps per compiled call, for speed; ours.
    config.precision = "float32"  # Of the encoder; or "bfloat16".

    config.data = dict(
        name="toy_tsipras",
        num_examples=10_000,  # In each split that is evaluated.
        seed=0,  # Of these; the run's seed draws the batches.
    )
    config.input = dict(
        normalisation="features"  # Pixels to the problem's own units.
    )
    config.encoder = dict(name="linear")  # No hidden layer.
    config.bottleneck = dict(
        name="deterministic",
        latent_dim=placeholder(int),  # None: no layer; z is the input.
    )
    config.decoder = dict(initializer="zeros")  # One dense layer.

    config.optim = dict(
        name="sgd",
        learning_rate=0.003,
        momentum=0.9,
        nesterov=True,  # Looks ahead by the momentum.
        decay_factor=1.0,  # The learning rate is constant.
        decay_every_epochs=1,  # So this is unused.
    )
    config.averaging = dict(decay=0.0)  # No Polyak average.

    config.train = dict(
        split="train",
        batch_size=1024,  # Examples a step, over all devices.
        augment=False,  # Features are no pictures.
        log_every_steps=100,  # Ours.
    )
    config.eval = dict(
        split="test",
        other_splits=("adversarial",),  # Shifted by 2 eta.
        batch_size=10_000,  # All at once.
        every_epochs=200.0,  # Once, at the end; ours.
    )
    config.checkpoint = dict(
        every_steps=10_000,  # To resume from; ours.
        keep=2,  # The last ones.
    )

    if preset == "smoke":  # Nothing is cut for :cpu.
        config.num_epochs = 8
        config.num_samples = 2
        config.data.num_examples = 32
        config.train.batch_size = 16
        config.train.log_every_steps = 4
        config.eval.batch_size = 16
        config.checkpoint.every_steps = 4
    return config
