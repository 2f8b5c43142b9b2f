r"""FGS at the paper's three radii (figure 1): one step, which is no evidence.

python -m launch.audit --config=configs/audits/fgs_epsilons.py \
    --saved_model=runs/mnist_vib/saved_model --workdir=audits/fgs

Takes seconds. On the digits VIB of configs/digits_vib.py (300 test images, mean
mode, measured): 6.0% at 0.2 and 0.0% at 0.35 and 0.5.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    config = common.audit(
        protocol="fgs_epsilons",
        version=1,
        norm="linf",
        epsilon=0.2,  # In pixel units of [0, 1].
        stages={
            "fgs": {
                "num_restarts": 1,
                "attack": {
                    "name": "fgs",
                    "loss": "cross_entropy",  # Section 2.
                    "num_eot": 1,  # Draws of noise per gradient.
                },
            }
        },
    )
    config.epsilon_curve = (0.2, 0.35, 0.5)  # Figure 1.
    return config
