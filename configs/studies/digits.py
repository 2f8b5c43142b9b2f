r"""Trained models of the digits by two protocols: a study to try it with.

python -m launch.study --config=configs/studies/digits.py \
    --config.models="('runs/*/saved_model',)" --workdir=studies/digits \
    --workers=2

A minute for two models of configs/digits_vib.py and configs/digits_ceb.py on
two CPU cores.
"""

from configs import common


def get_config():
    """Returns the study's config."""
    return common.study(
        # Paths of SavedModels and .keras files, with wildcards; NAME=PATH
        # gives one another name than that of its folder.
        models=("runs/*/saved_model",),
        # Fields that differ from the protocol of this name in configs/audits/;
        # with `protocol` the name is free.
        protocols={
            "fgs_epsilons": {
                "num_examples": 200,
                "threat_model": {"epsilon": 0.1},
                "epsilon_curve": (0.05, 0.1, 0.2),
            },
            "pgd": {
                "protocol": "pgd_restarts",
                "num_examples": 200,
                "threat_model": {"epsilon": 0.1},
                "epsilon_curve": (),
            },
        },
        examples_per_part=None,  # One part an audit.
    )
