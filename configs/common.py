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
        {
            "split": "test",
            "other_splits": (),  # Evaluated once, after training.
            "batch_size": 500,
            "every_epochs": 1.0,
        }
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
    """Cuts 1000 epochs to 7; small batches and SGD learn faster in these."""
    config.num_epochs = 7
    config.precision = "bfloat16"
    config.optim = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "nesterov": True,
            "decay_factor": 0.4,
            "decay_at_epochs": (1, 4, 6),
        }
    )
    config.train.batch_size = 64
    config.eval.every_epochs = 1.0
    config.train.log_every_steps = 32
    config.checkpoint.every_steps = 256
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


def toy(data: str, model: str, preset: str) -> ml_collections.ConfigDict:
    """The paper's toy experiments (section 3.3, equation 4 and appendix).

    Nothing is cut for `:cpu`. An epoch is one batch, which is drawn afresh.

    Args:
        data: "toy_overlap" or "toy_tsipras".
        model: "vib", or "linear" for the linear classifier.
        preset: What follows the colon of --config.

    Returns:
        The config.
    """
    check_preset(preset)
    latent_dim, num_steps = {
        "toy_overlap": (2, 1000),
        "toy_tsipras": (25, 200),
    }[data]
    config = _base(data, model, latent_dim)
    if model == "linear":
        config.bottleneck = bottleneck("deterministic", placeholder(int))
    else:
        config.bottleneck.scale_shift = -5.0  # The paper does not say.
    config.data.num_examples = 10_000  # In each split that is evaluated.
    config.data.seed = 0  # Of these; the run's seed draws the batches.
    config.num_epochs = num_steps
    config.input.normalisation = "features"
    config.encoder = ml_collections.ConfigDict({"name": "linear"})
    config.decoder.initializer = "zeros"
    config.optim = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.003,
            "momentum": 0.9,
            "nesterov": True,
            "decay_factor": 1.0,
            "decay_every_epochs": 1,
        }
    )
    config.averaging.decay = 0.0
    config.train.batch_size = 1024
    config.eval.other_splits = ("adversarial",)
    config.eval.batch_size = 10_000
    config.eval.every_epochs = float(num_steps)
    config.checkpoint.every_steps = 10_000
    if preset == "smoke":
        config.data.num_examples = 32
        config.num_epochs = 8
        config.num_samples = 2
        config.train.batch_size = 16
        config.train.log_every_steps = 4
        config.eval.batch_size = 16
        config.checkpoint.every_steps = 4
    return config


# The paper does not say which: decades, and closer together where stochastic
# accuracy falls from that of no bottleneck to a guess.
_TOY_BETAS = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)


def toy_sweep(add, data: str, preset: str) -> str:
    """Plans VIB over beta and the linear classifier on a toy problem.

    Args:
        add: That of a `sweep`.
        data: "toy_overlap" or "toy_tsipras".
        preset: What follows the colon of --config.

    Returns:
        What is cut, in a sentence.
    """
    check_preset(preset)
    is_smoke = preset == "smoke"
    grid(
        add,
        "vib",
        (0.01, 1.0) if is_smoke else _TOY_BETAS,
        1 if is_smoke else 10,
        twin="linear",
        twin_config=f"{data}_linear",
    )
    if is_smoke:
        return "A few steps and examples: the numbers mean nothing."
    return "The paper's steps, batches and examples."


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


def grid(
    add,
    model: str,
    values: tuple[float, ...],
    num_seeds: int,
    audits=lambda value: None,
    *,
    twin: str = "deterministic",
    twin_config: str,
    twin_audits=None,
    landscape=None,
) -> None:
    """Plans a bottleneck over the weight of its rate, and its twin, by seeds.

    Args:
        add: That of a `sweep`.
        model: "vib", over beta, or "ceb", over rho.
        values: Of beta or rho.
        num_seeds: Trainings of each kind.
        audits: Takes beta or rho and returns the audits of such a run.
        twin: What names and labels call the twin.
        twin_config: Its config.
        twin_audits: Its audits.
        landscape: Loss surfaces of each bottleneck.
    """
    control = {"vib": "beta", "ceb": "rho"}[model]
    for value in values:
        for seed in range(num_seeds):
            add(
                f"{model}_{control}_{value:g}_seed_{seed}",
                {f"bottleneck.{control}": value, "seed": seed},
                labels={"model": model, control: value, "seed": seed},
                **_given(audits=audits(value), landscape=landscape),
            )
    for seed in range(num_seeds):
        add(
            f"{twin}_seed_{seed}",
            {"seed": seed},
            config=twin_config,
            labels={"model": twin, "seed": seed},
            **_given(audits=twin_audits),
        )


def _given(**parts):
    return {name: part for name, part in parts.items() if part is not None}


_DIGITS = "Digits of 8x8 pixels and an MLP in place of the paper's; 3 seeds."

# What a sweep of a preset cuts from the paper's, for those who read its
# figures; by the first word of the config's name.
_BUDGETS = {
    ("mnist", ""): "The paper's trainings; PGD on 1,000 of 10,000 test images.",
    ("mnist", "cpu"): (
        "10 of 200 epochs, 5 of 8 betas, 3 of 10 seeds, FGS on 1,000 and PGD "
        "on 500 of 10,000 test images."
    ),
    ("cifar10", ""): (
        "The paper's trainings; attacks on 1,000 of 10,000 test images."
    ),
    ("cifar10", "cpu"): (
        "7 of 1,000 epochs, in bfloat16, in batches of 64 and not 1,024, by "
        "SGD with momentum and not Adam, the rate's weight annealed in 1 "
        "epoch; 1 of 10 seeds, one weight of the rate, attacks on 100 of "
        "10,000 test images."
    ),
    ("digits", ""): _DIGITS,
    ("digits", "cpu"): _DIGITS,
}


def budget(experiment: str, preset: str) -> str:
    """What a sweep cuts, in a sentence; `experiment` is mnist, cifar10..."""
    check_preset(preset)
    if preset == "smoke":
        return "Random images and a few steps: the numbers mean nothing."
    return _BUDGETS[experiment, preset]


def num_seeds(preset: str) -> int:
    """How many seeds a sweep trains: the paper's ten, or fewer."""
    return {"": 10, "cpu": 3, "smoke": 1}[preset]


def mnist_audits(preset: str, *, is_stochastic: bool, restarts: bool):
    """The audits of figure 1, and of figures 2 and 8 where asked for.

    Args:
        preset: What follows the colon of --config.
        is_stochastic: Whether the model has noise, and so a second mode.
        restarts: Whether PGD with growing restarts is among them.

    Returns:
        Name -> protocol and what differs from it.
    """
    # A single step is never believed, so no diagnostics are run on it.
    fgs = {
        "protocol": "fgs_epsilons",
        "num_examples": {"": 10_000, "cpu": 1000, "smoke": 16}[preset],
        "diagnostics.set": "none",
    }
    audits = {"fgs_mean": fgs}
    if is_stochastic:
        audits["fgs_stochastic"] = fgs | {"mode": "stochastic"}
    if restarts:
        audits["restarts"] = {
            "protocol": "pgd_restarts",
            "num_examples": {"": 1000, "cpu": 500, "smoke": 16}[preset],
            "stages.pgd.num_restarts": 100,
        }
        if preset == "smoke":
            audits["restarts"] |= {
                "stages.pgd.num_restarts": 3,
                "stages.pgd.attack.num_steps": 2,
                "diagnostics.set": "none",
            }
    return audits


def cifar10_audits(preset: str, *, restarts: bool):
    """The audits of figures 3 and 9.

    Args:
        preset: What follows the colon of --config. Two cores ask no
            diagnostics of a ResNet: those of one audit took over 20 minutes.
        restarts: Whether PGD with growing restarts is among them.

    Returns:
        Name -> protocol and what differs from it.
    """
    size = {"num_examples": {"": 1000, "cpu": 100, "smoke": 8}[preset]}
    size["batch_size"] = {"": 500, "cpu": 50, "smoke": 8}[preset]
    quiet = {"diagnostics.set": "none"}
    audits = {"madry": {"protocol": "pgd_madry", **size, **quiet}}
    if restarts:
        audits["madry_restarts"] = {
            "protocol": "pgd_madry",
            **size,
            "stages.pgd.num_restarts": 100,
        }
    audits["aa_mt"] = {"protocol": "aa_mt", **size}
    if preset == "cpu":
        audits = {name: audit | quiet for name, audit in audits.items()}
    if preset == "smoke":
        short = {"num_restarts": 1, "attack.num_steps": 2}
        for name, stages in (
            ("madry", ("pgd",)),
            ("madry_restarts", ("pgd",)),
            ("aa_mt", ("apgd_ce", "apgd_dlr", "multi_targeted")),
        ):
            if name in audits:
                audits[name] |= quiet
                audits[name] |= {
                    f"stages.{stage}.{field}": value
                    for stage in stages
                    for field, value in short.items()
                }
    return audits


# Of PGD and of AA+MT on 8x8 digits.
DIGITS_EPSILON = 0.1


def ceb_landscape(preset: str, epsilon: float = 8 / 255):
    """The loss surfaces of figures 4 and 10: how many, and the radius."""
    # One for figure 4 and three for figure 10.
    found = {"epsilon": epsilon, "num_images": 4}
    if preset == "smoke":
        found |= {"grid": 5, "num_examples": 32, "num_restarts": 1}
    return found


def digits_as_mnist(preset: str, *, is_stochastic: bool):
    """Those of MNIST on 300 images; arguments are those of `mnist_audits`."""
    audits = mnist_audits(preset, is_stochastic=is_stochastic, restarts=True)
    return _on_digits(audits)


def digits_as_cifar10(preset: str, *, restarts: bool):
    """Those of CIFAR-10 at epsilon 0.1 on 300 images; arguments likewise."""
    size = "smoke" if preset == "smoke" else ""
    audits = _on_digits(cifar10_audits(size, restarts=restarts))
    for section in audits.values():
        section["threat_model.epsilon"] = DIGITS_EPSILON
        if section["protocol"] == "pgd_madry":
            section["stages.pgd.attack.step_size"] = 0.022  # In proportion.
    return audits


def _on_digits(audits):
    for section in audits.values():
        section["num_examples"] = min(section["num_examples"], 300)
    return audits


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
            # What is done to images in [0, 1] before the model sees them: a
            # recipe, scale * x + offset, or (x - mean) / std, by channel.
            "preprocessing": {
                "recipe": placeholder(str),  # imagenet, mnist, signed, ...
                "scale": placeholder(tuple),
                "offset": placeholder(tuple),
                "mean": placeholder(tuple),
                "std": placeholder(tuple),
                "channel_order": placeholder(str),  # rgb or bgr
            },
        }
    )
    # None: that of the model. Further arguments of a data set, such as `path`,
    # are set likewise.
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
