"""The other side of `benchmarks.race`: one peer, one attack, one process.

PEER_PYTHON -m benchmarks.race_peers attack PEER DATA.npz EPSILON
PEER_PYTHON -m benchmarks.race_peers logits DATA.npz OUTPUT.npy
PEER_PYTHON -m benchmarks.race_peers look PEER...

Needs PyTorch and the peer alone: no TensorFlow, none of our packages. DATA.npz
has images [n, 28, 28, 1], labels [n], and kernel_0, bias_0, ... of the MLP.
The last line of stdout is JSON.
"""

import contextlib
import importlib
import json
import sys
from importlib import metadata

import numpy as np

RESTARTS, STEPS, BATCH = 5, 100, 500

# Distributions whose versions matter.
PACKAGES = (
    "adversarial-robustness-toolbox",
    "autoattack",
    "foolbox",
    "numpy",
    "pyautoattack",
    "torch",
    "torchattacks",
)

# Peer -> the modules that have it, best first; and what it runs.
MODULES = {
    "auto_attack": ("pyautoattack", "autoattack"),
    "torchattacks": ("torchattacks",),
    "foolbox": ("foolbox",),
    "art": ("art.attacks.evasion",),
}
RUNS = {
    "auto_attack": "apgd-ce, then apgd-dlr, 5 x 100 each",
    "torchattacks": "APGD on ce, then on dlr, 5 x 100 each",
    "foolbox": "LinfPGD, 10 x 100 steps of epsilon / 30 on cross-entropy, "
    "since it has no APGD",
    "art": "AutoProjectedGradientDescent on both losses, 5 x 100 each, "
    "eps_step = 2 epsilon (its default is weaker)",
}


def look(peers):
    """What is installed here.

    Returns:
        `versions`, distribution -> version, and `problems`, peer -> why it
        cannot be imported, of those that cannot.
    """
    problems = {}
    for name in peers:
        for module in MODULES[name]:
            try:
                importlib.import_module(module)
                break
            except ImportError as error:
                problems.setdefault(name, str(error))
        else:
            continue
        problems.pop(name, None)
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"versions": versions, "problems": problems}


def network(data):
    """Images [n, 1, 28, 28] in [0, 1] to logits, from kernels and biases."""
    import torch

    class Rescale(torch.nn.Module):
        def forward(self, x):
            return 2.0 * x - 1.0

    layers = [torch.nn.Flatten(), Rescale()]
    count = sum(name.startswith("kernel_") for name in data)
    for index in range(count):
        kernel = torch.from_numpy(data[f"kernel_{index}"].T.copy())
        layer = torch.nn.Linear(kernel.shape[1], kernel.shape[0])
        layer.weight.data = kernel
        layer.bias.data = torch.from_numpy(data[f"bias_{index}"])
        layers.append(layer)
        if index < count - 2:  # The bottleneck and the decoder are linear.
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def tensors(data):
    import torch

    images = torch.from_numpy(data["images"].transpose(0, 3, 1, 2).copy())
    return images, torch.from_numpy(data["labels"].astype(np.int64))


def narrow(model, images, labels, attacks):
    """Each attack of those that still stand; returns who does in the end."""
    robust = model(images).argmax(1) == labels
    for attack in attacks:
        rows = robust.nonzero().flatten()
        for part in rows.split(BATCH) if len(rows) else ():
            found = attack(images[part], labels[part])
            robust[part] = model(found).argmax(1) == labels[part]
    return robust


def auto_attack(model, images, labels, epsilon):
    try:
        import pyautoattack

        attack = pyautoattack.AutoAttack(
            model,
            norm="Linf",
            eps=epsilon,
            seed=0,
            version="custom",
            attacks=["apgd-ce", "apgd-dlr"],
        )
        size = {"batch_size": BATCH}
    except ImportError:
        import autoattack

        attack = autoattack.AutoAttack(
            model,
            norm="Linf",
            eps=epsilon,
            seed=0,
            version="custom",
            attacks_to_run=["apgd-ce", "apgd-dlr"],
            device="cpu",
            verbose=False,
        )
        size = {"bs": BATCH}
    attack.apgd.n_restarts = RESTARTS
    attack.apgd.n_iter = STEPS
    found = attack.run_standard_evaluation(images, labels, **size)
    if isinstance(found, tuple):
        found = found[0]
    return model(found).argmax(1) == labels


def torchattacks(model, images, labels, epsilon):
    import torchattacks

    attacks = [
        torchattacks.APGD(
            model,
            norm="Linf",
            eps=epsilon,
            steps=STEPS,
            n_restarts=RESTARTS,
            seed=0,
            loss=loss,
        )
        for loss in ("ce", "dlr")
    ]
    return narrow(model, images, labels, attacks)


def foolbox(model, images, labels, epsilon):
    import foolbox

    subject = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=STEPS)

    def run(images, labels):
        return attack(subject, images, labels, epsilons=epsilon)[1]

    return narrow(model, images, labels, [run] * (2 * RESTARTS))


def art(model, images, labels, epsilon):
    import torch
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    subject = PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )

    def attack(loss):
        built = AutoProjectedGradientDescent(
            subject,
            norm=np.inf,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=STEPS,
            nb_random_init=RESTARTS,
            batch_size=BATCH,
            loss_type=loss,
            verbose=False,
        )
        return lambda x, y: torch.from_numpy(
            built.generate(x=x.numpy(), y=y.numpy())
        )

    losses = ("cross_entropy", "difference_logits_ratio")
    return narrow(model, images, labels, [attack(loss) for loss in losses])


ATTACKS = {
    "auto_attack": auto_attack,
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "art": art,
}


def main(action, *words):
    if action == "look":
        print(json.dumps(look(words)))
        return
    *name, path, last = words
    with np.load(path) as file:
        data = dict(file)
    model = network(data)
    images, labels = tensors(data)
    if action == "logits":
        np.save(last, model(images).numpy())
        return
    clean = (model(images).argmax(1) == labels).double().mean()
    robust = ATTACKS[name[0]](model, images, labels, float(last))
    found = {"clean_accuracy": clean, "robust_accuracy": robust.double().mean()}
    print(json.dumps({key: float(value) for key, value in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
