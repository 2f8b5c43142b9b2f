r"""PGD with growing restarts on MNIST (figures 2 and 8).

python -m launch.audit --config=configs/audits/pgd_restarts.py \
    --saved_model=runs/mnist_vib/saved_model --workdir=audits/pgd

Costs at most 800 gradients an example and radius. On MNIST VIB after 5 epochs
(500 test images, mean mode, measured): 0.0% at 0.2, and at 0.1 from 9.2% after
one restart to 8.0% after 20, in half a minute on 2 CPU cores.
"""

from configs import common


def get_config():
    """Returns the protocol's config."""
    config = common.audit(
        protocol="pgd_restarts",
        version=1,
        norm="linf",
        epsilon=0.2,  # In pixel units of [0, 1].
        stages={
            "pgd": {
                "num_restarts": 20,  # Ours; sweeps of figures set 100.
                "attack": {
                    "name": "pgd",
                    "num_steps": 40,  # Section 3.1.
                    "step_size": 0.01,  # In pixel units; section 3.1.
                    "loss": "cross_entropy",
                    "random_start": True,  # Within the ball.
                    "num_eot": 1,  # Draws of noise per gradient.
                },
            }
        },
    )
    config.epsilon_curve = (0.1, 0.2)  # Figures 8 and 2.
    return config
