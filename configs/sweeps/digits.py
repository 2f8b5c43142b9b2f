"""The audits of MNIST and of CIFAR-10 on 300 of the 8x8 digits."""

from configs.sweeps import cifar10
from configs.sweeps import mnist

EPSILON = 0.1  # l_inf, in pixel units of [0, 1], in place of CIFAR-10's 8/255.


def as_mnist(preset: str, *, is_stochastic: bool):
    """Those of MNIST; arguments are those of `mnist.audits`."""
    return _on_300(
        mnist.audits(preset, is_stochastic=is_stochastic, restarts=True)
    )


def as_cifar10(preset: str, *, restarts: bool):
    """Those of CIFAR-10 at another radius; see `cifar10.audits`."""
    size = "smoke" if preset == "smoke" else ""
    found = _on_300(cifar10.audits(size, restarts=restarts))
    for audit in found.values():
        audit["threat_model.epsilon"] = EPSILON
        if audit["protocol"] == "pgd_madry":
            audit["stages.pgd.attack.step_size"] = 0.022  # In proportion.
    return found


def landscape(preset: str):
    """Those of CIFAR-10 at another radius; see `cifar10.landscape`."""
    return cifar10.landscape(preset, EPSILON)


def _on_300(audits):
    for audit in audits.values():
        audit["num_examples"] = min(audit["num_examples"], 300)
    return audits
