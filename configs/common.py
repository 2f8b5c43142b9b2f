"""What the experiments share: the paper's settings, `:cpu` and `:smoke`.

A config holds JSON scalars, tuples and nested sections, nothing else. A part's
section is its module's name and the arguments of its `build`. Fields are
overridden on the command line: `--config.bottleneck.beta=0.1`.
"""

import ml_collections
from ml_collections.config_dict import placeholder

PRESETS = ("", "cpu", "smoke")


def check_preset(preset: str) -> None:
    """Refuses what stands after the colon of --config if it is unknown."""
    if preset not in PRESETS:
        raise ValueError(
            f'Received preset "{preset}". Expected one of '
            f"{', '.join(p or '(none)' for p in PRESETS)}. Correct what "
            "follows the colon of --config."
        )


def bottleneck(name: str, latent_dim: int) -> ml_collections.ConfigDict:
    """The section of a bottleneck; `name` is its module's name."""
    section = ml_collections.ConfigDict({"name": name})
    section.latent_dim = latent_dim
    if name == "vib":
        section.beta = 0.01
        section.anneal_epochs = 0.0
        section.initial_beta = 1e-8
        section.anneal_shape = "linear"  # The paper does not say.
        section.rate_estimator = "sampled"
    if name == "ceb":
        section.rho = 3.0
        section.anneal_epochs = 0.0
        section.initial_rho = 100.0
        section.rate_estimator = "sampled"
    return section


def _base(data: str, bottleneck_name: str, latent_dim: int):
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_epochs = 200
    config.num_samples = 12  # S
    config.steps_per_call = 100  # Steps between two looks of the host.
    config.precision = "float32"  # Of the encoder: float32 or bfloat16.
    config.data = ml_collections.ConfigDict({"name": data})
    if data in ("mnist", "cifar10", "digits"):
        config.data.data_dir = placeholder(str)  # None: TFDS decides.
        config.data.download = True
    config.input = ml_collections.ConfigDict({"normalisation": "minus_one_one"})
    config.encoder = ml_collections.ConfigDict(
        {"name": "mlp", "hidden_units": (1024, 1024)}
    )
    config.bottleneck = bottleneck(bottleneck_name, latent_dim)
    config.decoder = ml_collections.ConfigDict(
        {"initializer": "glorot_uniform"}
    )
    config.optim = ml_collections.ConfigDict(
        {
            "name": "adam",
            "learning_rate": 1e-4,
            "beta_1": 0.5,
            "beta_2": 0.999,
            "decay_factor": 0.97,
            "decay_every_epochs": 2,
        }
    )
    config.averaging = ml_collections.ConfigDict({"decay": 0.999})
    config.train = ml_collections.ConfigDict(
        {
            "split": "train",
            "batch_size": 100,
            "augment": False,
            "log_every_steps": 100,
        }
    )
    config.eval = ml_collections.ConfigDict(
        {"split": "test", "batch_size": 500, "every_epochs": 1.0}
    )
    config.checkpoint = ml_collections.ConfigDict(
        {"every_steps": 1000, "keep": 2}
    )
    return config


def mnist(bottleneck_name: str, preset: str) -> ml_collections.ConfigDict:
    """The paper's MNIST experiment (section 3.1 and appendix)."""
    check_preset(preset)
    config = _base("mnist", bottleneck_name, latent_dim=256)
    if preset == "cpu":
        config.num_epochs = 10
    return _smoke(config, (28, 28, 1)) if preset == "smoke" else config


def cifar10(bottleneck_name: str, preset: str) -> ml_collections.ConfigDict:
    """The paper's CIFAR-10 experiment (section 3.2 and appendix)."""
    check_preset(preset)
    config = _base("cifar10", bottleneck_name, latent_dim=256)
    config.num_epochs = 1000
    config.steps_per_call = 16
    config.input.normalisation = "train_statistics"
    config.encoder.name = "preact_resnet18"
    config.optim.learning_rate = 0.012
    config.optim.beta_1 = 0.9
    config.optim.decay_factor = 0.3
    config.optim.decay_every_epochs = 250
    config.averaging.decay = 0.0
    config.train.batch_size = 1024
    config.train.augment = True
    config.train.log_every_steps = 48
    config.eval.every_epochs = 5.0
    config.checkpoint.every_steps = 480
    if bottleneck_name == "vib":
        config.bottleneck.anneal_epochs = 100.0
    if bottleneck_name == "ceb":
        config.bottleneck.anneal_epochs = 4.0
    if preset == "cpu":
        _cifar10_in_an_hour(config)
    return _smoke(config, (32, 32, 3)) if preset == "smoke" else config


def _cifar10_in_an_hour(config):
    """Cuts 1000 epochs to 5; small batches and a fast decay go with it."""
    config.num_epochs = 5
    config.precision = "bfloat16"
    config.optim.learning_rate = 0.001
    config.optim.decay_factor = 0.5
    config.optim.decay_every_epochs = 1
    config.train.batch_size = 128
    config.eval.every_epochs = 1.0
    config.checkpoint.every_steps = 128
    if config.bottleneck.name != "deterministic":
        config.bottleneck.anneal_epochs = 1.0


def digits(bottleneck_name: str, preset: str) -> ml_collections.ConfigDict:
    """The MNIST experiment made small, on scikit-learn's 8x8 digits."""
    check_preset(preset)
    config = _base("digits", bottleneck_name, latent_dim=32)
    config.num_epochs = 60
    config.encoder.hidden_units = (128, 128)
    config.optim.learning_rate = 1e-3
    config.optim.decay_every_epochs = 10
    config.averaging.decay = 0.99
    config.train.batch_size = 64
    config.train.log_every_steps = 22
    config.eval.every_epochs = 10.0
    return _smoke(config, (8, 8, 1)) if preset == "smoke" else config


def _smoke(config, image_shape):
    """Makes a run of seconds of the same code on random images."""
    config.data = ml_collections.ConfigDict(
        {
            "name": "random_images",
            "image_shape": image_shape,
            "num_classes": 10,
            "num_train": 64,
            "num_test": 32,
        }
    )
    config.num_epochs = 2
    config.encoder.hidden_units = (32, 32)
    config.bottleneck.latent_dim = 8
    config.num_samples = 2
    config.train.batch_size = 16
    config.train.log_every_steps = 4
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 4
    return config


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
    config.seed = 0
    config.mode = "mean"
    config.num_samples = placeholder(int)
    config.num_judge_samples = placeholder(int)
    config.num_examples = 1000
    config.batch_size = 500
    config.chunk_steps = 16  # Most steps between looks at who stands.
    config.compact = True  # Whether a batch shrinks to them.
    # What a model of other code is; None leaves it to be found.
    config.model = ml_collections.ConfigDict(
        {
            "signature": placeholder(str),
            "output": placeholder(str),  # Name of one among several.
            "outputs": placeholder(str),  # logits, probabilities, ...
            "input_range": placeholder(tuple),  # Lowest and highest value.
            "layout": placeholder(str),  # channels_last or channels_first
        }
    )
    config.dataset = ml_collections.ConfigDict(
        {
            "name": placeholder(str),
            "split": "test",
            "data_dir": placeholder(str),
            "download": True,
        }
    )
    config.threat_model = ml_collections.ConfigDict(
        {"norm": norm, "epsilon": epsilon}
    )
    # Further radii, each audited by itself for the curve of the report.
    config.epsilon_curve = ()
    config.stages = ml_collections.ConfigDict(stages)
    # The checks that the verdict is made of: none, quick or full.
    config.diagnostics = ml_collections.ConfigDict(
        {
            "set": "quick",
            "num_examples": 100,
            "twin": placeholder(str),  # SavedModel of the undefended twin.
        }
    )
    return config
