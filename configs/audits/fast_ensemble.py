r"""The answer of AA+MT at a twentieth of its gradients.

python -m launch.audit --config=configs/audits/fast_ensemble.py \
    --saved_model=runs/cifar10_ceb/saved_model --workdir=audits/fast

For MNIST add --config.threat_model.epsilon=0.2.

A robust example costs 5 x 31 + 5 x 31 + 2 x 9 x 30 = 850 gradients; AA+MT takes
19,010. What AA+MT breaks late falls to another start or another target class
within a few steps, so runs are short here, and restarts and targets many. The
stages were chosen among twelve on small networks of scikit-learn's digits,
where they left at most one of 300 examples more than AA+MT. On 1,000 MNIST
images these are 0 and 1 for models trained by ibp (radius 0.1), 3 for one
trained by pgd_at (0.3), and 1, 1 and 6 for a deterministic network, a VIB and a
CEB without defence (0.1).

For a number to publish run aa_mt or autoattack_standard, which others know.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    # num_eot: draws of a model's noise that each gradient is averaged over.
    apgd = {"name": "apgd", "num_steps": 30, "num_eot": 1}
    return common.audit(
        protocol="fast_ensemble",
        version=1,
        norm="linf",
        epsilon=8 / 255,  # In pixel units of [0, 1].
        stages={
            "apgd_ce": {
                "num_restarts": 5,
                "attack": {**apgd, "loss": "cross_entropy"},
            },
            "apgd_dlr": {
                "num_restarts": 5,
                "attack": {**apgd, "loss": "dlr"},
            },
            "multi_targeted": {
                "num_restarts": 2,
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
