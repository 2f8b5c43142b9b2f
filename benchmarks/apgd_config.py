"""APGD-CE and then APGD-DLR, 5 x 100 each: what `benchmarks.race` runs."""

from configs import common


def get_config():
    """Returns the protocol's config."""
    apgd = {"name": "apgd", "num_steps": 100, "num_eot": 1}
    return common.audit(
        protocol="apgd",
        version=1,
        norm="linf",
        epsilon=0.2,
        stages={
            "apgd_ce": {
                "num_restarts": 5,
                "attack": {**apgd, "loss": "cross_entropy"},
            },
            "apgd_dlr": {
                "num_restarts": 5,
                "attack": {**apgd, "loss": "dlr"},
            },
        },
    )
