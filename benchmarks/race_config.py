"""AutoPGD on cross-entropy, then on DLR, 5 x 100 each: what `race` runs."""

from configs import common


def get_config():
    """Returns the protocol's config."""
    apgd = {"name": "apgd", "num_steps": 100, "num_eot": 1}
    return common.audit(
        protocol="race",
        version=1,
        norm="linf",
        epsilon=0.2,
        stages={
            f"apgd_{short}": {
                "num_restarts": 5,
                "attack": {**apgd, "loss": loss},
            }
            for short, loss in {"ce": "cross_entropy", "dlr": "dlr"}.items()
        },
    )
