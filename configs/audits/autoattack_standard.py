r"""AutoAttack's standard ensemble: APGD-CE, APGD-T, FAB-T, Square.

python -m launch.audit --config=configs/audits/autoattack_standard.py \
    --saved_model=runs/cifar10_ceb/saved_model --workdir=audits/autoattack

--plan prints what it can cost; Square adds 5,000 queries without gradients.

The stages are implemented here, after the authors' code. Where they differ from
it, their docstrings say so.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    return common.audit(
        protocol="autoattack_standard",
        version=1,
        norm="linf",
        epsilon=8 / 255,  # In pixel units of [0, 1].
        stages={
            "apgd_ce": {
                "num_restarts": 1,
                "attack": {
                    "name": "apgd",
                    "num_steps": 100,
                    "loss": "cross_entropy",
                    "num_eot": 1,  # Draws of noise per gradient.
                },
            },
            "apgd_t": {
                "num_restarts": 1,
                "attack": {
                    "name": "apgd",
                    "num_steps": 100,
                    "loss": "targeted_dlr",
                    "num_targets": 9,  # By falling clean logit.
                    "num_eot": 1,
                },
            },
            "fab_t": {
                "num_restarts": 1,
                "attack": {
                    "name": "fab",
                    "num_steps": 100,
                    "num_targets": 9,
                    "random_start": False,  # At the image.
                },
            },
            "square": {
                "num_restarts": 1,
                "attack": {
                    "name": "square",
                    "num_steps": 5000,  # Queries.
                    "initial_share": 0.8,  # Of pixels in a window.
                },
            },
        },
    )
