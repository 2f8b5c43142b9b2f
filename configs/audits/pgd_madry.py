r"""PGD with Madry et al.'s parameters on CIFAR-10 (figures 3a and 9a).

python -m launch.audit --config=configs/audits/pgd_madry.py \
    --saved_model=runs/cifar10_ceb/saved_model --workdir=audits/pgd_madry

Costs 20 gradients an example. Madry et al. report 45.8% for an adversarially
trained network.

It makes one restart, whose number alone should not be believed, as the paper
shows. For figures 3b and 9b raise --config.stages.pgd.num_restarts.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    return common.audit(
        protocol="pgd_madry",
        version=1,
        norm="linf",
        epsilon=8 / 255,  # In pixel units of [0, 1].
        stages={
            "pgd": {
                "num_restarts": 1,
                "attack": {
                    "name": "pgd",
                    "num_steps": 20,  # Section 3.2.
                    "step_size": 0.007,  # In pixel units; section 3.2.
                    "loss": "cross_entropy",
                    "random_start": True,  # Within the ball.
                    "num_eot": 1,  # Draws of noise per gradient.
                },
            }
        },
    )
