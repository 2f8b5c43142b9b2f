"""What all configs share: the presets, `:smoke`, and the fields of an audit.

A config holds JSON scalars, tuples and nested sections, nothing else. A part's
section is its module's name and the arguments of its `build`. Fields are
overridden on the command line: `--config.bottleneck.beta=0.1`.

Nothing here depends on the names of parts: all fields of a training are in its
own file.
"""

import ml_collections
from ml_collections.config_dict import placeholder

# The paper's setting, one for two CPU cores, and a trial of seconds.
PRESETS = ("", "cpu", "smoke")


def check_preset(preset: str, *others: str) -> None:
    """Refuses what follows the colon of --config if it is unknown.

    Args:
        preset: What follows it.
        *others: What could follow it, too, for the message.
    """
    if preset not in PRESETS:
        valid = [*(p or "(none)" for p in PRESETS), *others]
        raise ValueError(
            f'Received preset "{preset}". Expected one of {", ".join(valid)}. '
            "Correct what follows the colon of --config."
        )


def smoke(config: ml_collections.ConfigDict, image_shape: tuple) -> None:
    """Reduces a training to seconds of the same code, on random images.

    Args:
        config: Of a training whose encoder has `hidden_units`; changed in
            place.
        image_shape: `(height, width, channels)` of the data set replaced.
    """
    config.data = dict(
        name="random_images",
        image_shape=image_shape,
        num_classes=10,
        num_train=64,
        num_test=32,
    )
    config.num_epochs = 2
    config.num_samples = 2
    config.encoder.hidden_units = (32, 32)
    config.bottleneck.latent_dim = 8
    config.train.batch_size = 16
    config.train.log_every_steps = 4
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 4
    config.train.split = "train"
    if "monitor" in config:
        config.monitor.split = "test"


def audit(
    protocol: str, version: int, norm: str, epsilon: float, stages: dict
) -> ml_collections.ConfigDict:
    """The fields that every audit has.

    Args:
        protocol: Name, for reports.
        version: Raised whenever the numbers of the protocol may change.
        norm: "linf" or "l2".
        epsilon: Radius in pixel units of [0, 1].
        stages: Name -> section with `num_restarts` and `attack`; they run in
            this order.

    Returns:
        The config. What is left at None comes from the SavedModel's metadata.
    """
    config = ml_collections.ConfigDict()
    config.protocol = protocol
    config.protocol_version = version
    config.seed = 0  # Of starting points, model noise and choices.
    config.mode = "mean"  # Or "stochastic".
    config.num_samples = placeholder(int)  # S, draws of z in stochastic mode.
    config.num_judge_samples = placeholder(
        int
    )  # Of z where an outcome is judged.
    config.num_examples = 1000  # The first ones of the split.
    config.batch_size = 500
    config.chunk_steps = 16  # Most attack steps between two looks at results.
    config.compact = True  # Whether broken examples leave the batch then.

    # What a model of other code is; None leaves it to be found.
    config.model = dict(
        signature=placeholder(str),
        output=placeholder(str),  # Name of one among several.
        outputs=placeholder(str),  # "logits", "probabilities", ...
        input_range=placeholder(tuple),  # Lowest and highest value.
        layout=placeholder(str),  # "channels_last" or "channels_first".
        # What is done to images in [0, 1] before the model sees them: a
        # recipe, scale * x + offset, or (x - mean) / std, by channel.
        preprocessing=dict(
            recipe=placeholder(str),  # "imagenet", "mnist", "signed", ...
            scale=placeholder(tuple),
            offset=placeholder(tuple),
            mean=placeholder(tuple),
            std=placeholder(tuple),
            channel_order=placeholder(str),  # "rgb" or "bgr".
        ),
    )
    # None: that of the model. Further arguments of a data set, such as `path`,
    # are set likewise.
    config.dataset = dict(
        name=placeholder(str),
        split="test",
        data_dir=placeholder(str),  # Of TFDS; None: TFDS decides.
        download=True,  # If the data are not there.
    )

    config.threat_model = dict(norm=norm, epsilon=epsilon)
    # Further radii, each audited by itself for the curve of the report.
    config.epsilon_curve = ()
    config.stages = stages
    # The checks that the verdict is made of.
    config.diagnostics = dict(
        set="quick",  # Or "none" or "full".
        num_examples=100,
        twin=placeholder(str),  # SavedModel of the deterministic baseline.
    )
    return config
