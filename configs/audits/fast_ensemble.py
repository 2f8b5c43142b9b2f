r"""The answer of AA+MT at a twentieth of its gradients.

python -m launch.audit --config=configs/audits/fast_ensemble.py \
    --saved_model=runs/mnist_vib/saved_model --workdir=audits/fast \
    --config.threat_model.epsilon=0.2

A robust example costs 31 + 3 x 9 x 30 = 841 gradients; AA+MT takes 19,010. What
one short run of APGD leaves is mostly broken by other target classes: nine
targets of few steps find more than three targets of many, and restarts more
than longer runs. The stages were chosen on small networks of scikit-learn's
digits and judged on MNIST networks, see benchmarks/fast_ensemble.py.

For a number to publish run aa_mt or autoattack_standard, which others know.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    return common.audit(
        protocol="fast_ensemble",
        version=1,
        norm="linf",
        epsilon=8 / 255,  # In pixel units of [0, 1].
        stages={
            "apgd_ce": {
                "num_restarts": 1,
                "attack": {
                    "name": "apgd",
                    "num_steps": 30,
                    "loss": "cross_entropy",
                    "num_eot": 1,  # Draws of noise per gradient.
                },
            },
            "multi_targeted": {
                "num_restarts": 3,
                "attack": {
                    "name": "multi_targeted",
                    "num_steps": 30,
                    "num_targets": 9,  # By falling clean logit.
                    # As in aa_mt.
                    "optimizer": "adam",
                    "learning_rate": 0.1,  # In pixel units.
                    "schedule": "decade",
                    "num_eot": 1,
                },
            },
        },
    )
