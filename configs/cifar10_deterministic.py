r"""The deterministic baseline on CIFAR-10 (the paper, section 3.2).

The same network and training as VIB and CEB, without noise and rate.

python -m launch.train --config=configs/cifar10_deterministic.py \
    --workdir=runs/cifar10_deterministic

1000 epochs of 48 steps, for an accelerator; it has not been run to the end
yet. Expect above 90% test accuracy (the paper, section 3.2). `:cpu` is 7
epochs by SGD in bfloat16: 82.9% (seed 0, measured), in 68 minutes on one CPU
core while CEB used another.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    common.check_preset(preset)
    config = ml_collections.ConfigDict()
    # The numbers are of the paper's appendix, "Architectures and
    # hyperparameters"; what it does not say is marked as ours.
    config.seed = 0  # Of the initial weights, the batches and the noise.
    config.num_epochs = 1000  # Of 48 steps.
    config.num_samples = 12  # S, draws of z an image (section 3.1).
    config.steps_per_call = 16  # Steps per compiled call, for speed; ours.
    config.precision = "float32"  # Of the encoder; or "bfloat16".

    config.data = dict(
        name="cifar10",
        data_dir=placeholder(str),  # Of TFDS; None: TFDS decides.
        download=True,  # If the data are not there.
    )
    config.input = dict(
        normalisation="train_statistics"  # Mean and deviation by channel.
    )
    config.encoder = dict(
        name="preact_resnet18",
        hidden_units=(1024, 1024),  # Of the MLP behind it, as on MNIST.
    )
    config.bottleneck = dict(
        name="deterministic",  # A linear layer: no noise, no rate.
        latent_dim=256,  # K (section 3.1).
    )
    config.decoder = dict(initializer="glorot_uniform")  # One dense layer.

    config.optim = dict(
        name="adam",
        learning_rate=0.012,  # The initial one.
        beta_1=0.9,  # Decay of the average of gradients
        beta_2=0.999,  # and of their squares: the defaults.
        decay_factor=0.3,  # The learning rate is multiplied by this
        decay_every_epochs=250,  # each time so many epochs are over.
    )
    config.averaging = dict(decay=0.0)  # No Polyak average: that is MNIST's.

    config.train = dict(
        split="train",
        batch_size=1024,  # Images a step, over all devices.
        augment=True,  # Random crops (pad 4) and flips; ours.
        log_every_steps=48,  # One epoch; ours.
    )
    config.eval = dict(  # All ours.
        split="test",
        other_splits=(),  # Evaluated once, after training.
        batch_size=500,  # Images at once.
        every_epochs=5.0,  # And at the end.
    )
    config.checkpoint = dict(
        every_steps=480,  # To resume from; ours.
        keep=2,  # The last ones.
    )

    if preset == "cpu":
        _cut_to_an_hour(config)
    if preset == "smoke":
        common.smoke(config, image_shape=(32, 32, 3))
    return config


def _cut_to_an_hour(config):
    """Reduces 1000 epochs to 7; small batches and SGD learn faster in them."""
    config.num_epochs = 7
    config.precision = "bfloat16"
    config.optim = dict(
        name="sgd",
        learning_rate=0.05,
        momentum=0.9,
        nesterov=True,
        decay_factor=0.4,
        decay_at_epochs=(1, 4, 6),  # In place of decay_every_epochs.
    )
    config.train.batch_size = 64
    config.train.log_every_steps = 32
    config.eval.every_epochs = 1.0
    config.checkpoint.every_steps = 256
