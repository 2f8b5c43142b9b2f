r"""AA+MT on the models of a sweep of configs/mnist_vib.py: a grid of figure 3.

python -m launch.study --config=configs/studies/paper_mnist.py --plan \
    --config.models="('sweeps/mnist_vib/runs/*/saved_model',)" \
    --workdir=studies/mnist

--plan says what it can take at most on a machine such as this.
"""

from configs import common


def get_config():
    """Returns the study's config."""
    return common.study(
        models=("sweeps/mnist_vib/runs/*/saved_model",),
        protocols={
            "aa_mt": {
                "num_examples": 1000,
                "threat_model": {"epsilon": 0.2},  # Pixel units of [0, 1].
            },
            "aa_mt_stochastic": {
                "protocol": "aa_mt",
                "mode": "stochastic",
                "num_examples": 1000,
                "threat_model": {"epsilon": 0.2},
            },
        },
        examples_per_part=None,
    )
