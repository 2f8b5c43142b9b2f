r"""The deterministic baseline on scikit-learn's digits (no download).

The same network and training as VIB and CEB, without noise and rate.

python -m launch.train --config=configs/digits_deterministic.py \
    --workdir=runs/digits_deterministic

Takes 15 s on 2 CPU cores. Expect 98.1% test accuracy (seed 0, measured).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    common.check_preset(preset)
    config = ml_collections.ConfigDict()
    # The paper's MNIST training made small; the paper's numbers are named
    # where they differ.
    config.seed = 0  # Of the initial weights, the batches and the noise.
    config.num_epochs = 60  # Of 22 steps; paper: 200.
    config.num_samples = 12  # S, draws of z an image.
    config.steps_per_call = 100  # Steps per compiled call, for speed.
    config.precision = "float32"  # Of the encoder; or "bfloat16".

    config.data = dict(
        name="digits",  # 8x8 pixels, with scikit-learn: no download.
        data_dir=placeholder(str),  # Of TFDS; None: TFDS decides.
        download=True,  # Whether TFDS may write its copy.
    )
    config.input = dict(
        normalisation="minus_one_one"  # [0, 1] to [-1, 1].
    )
    config.encoder = dict(
        name="mlp",
        hidden_units=(128, 128),  # Width of each ReLU layer; paper: 1024.
    )
    config.bottleneck = dict(
        name="deterministic",  # A linear layer: no noise, no rate.
        latent_dim=32,  # K; paper: 256.
    )
    config.decoder = dict(initializer="glorot_uniform")  # One dense layer.

    config.optim = dict(
        name="adam",
        learning_rate=1e-3,  # The initial one; paper: 1e-4.
        beta_1=0.5,  # Decay of the average of gradients
        beta_2=0.999,  # and of their squares.
        decay_factor=0.97,  # The learning rate is multiplied by this
        decay_every_epochs=10,  # each time so many are over; paper: 2.
    )
    config.averaging = dict(decay=0.99)  # Polyak average; paper: 0.999.

    config.train = dict(
        split="train",
        batch_size=64,  # Images a step, over all devices; paper: 100.
        augment=False,  # No crops and flips.
        log_every_steps=22,  # One epoch.
    )
    config.eval = dict(
        split="test",
        other_splits=(),  # Evaluated once, after training.
        batch_size=500,  # Images at once.
        every_epochs=10.0,  # And at the end.
    )
    config.checkpoint = dict(
        every_steps=1000,  # To resume from.
        keep=2,  # The last ones.
    )

    if preset == "smoke":  # Nothing is cut for :cpu.
        common.smoke(config, image_shape=(8, 8, 1))
    return config
