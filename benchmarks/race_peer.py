"""One peer's run in `benchmarks.race`, as a process without TensorFlow.

python benchmarks/race_peer.py NAME MODEL.npz DATA.npz EPSILON

Prints the robust accuracy as a line of JSON. Run by `race`, which gives the
files: the network's kernels and biases in the order of its layers, and images
`[n, 28, 28, 1]` with their labels. A peer that is not installed ends it with
status 3.
"""

import json
import sys

import numpy as np

RESTARTS, STEPS, BATCH = 5, 100, 500


def network(path):
    """The MLP of the paper, with ReLU behind its first two layers."""
    import torch

    arrays = [torch.from_numpy(a) for a in np.load(path).values()]
    layers = [torch.nn.Flatten()]
    for index, (kernel, bias) in enumerate(
        zip(arrays[::2], arrays[1::2], strict=True)
    ):
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data, layer.bias.data = kernel.T.contiguous(), bias
        layers += [layer, torch.nn.ReLU()] if index < 2 else [layer]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, x):
            return self.layers(2.0 * x - 1.0)

    return Network().eval()


def auto_attack(model, images, labels, epsilon):
    """APGD-CE and APGD-DLR of PyTorch auto-attack."""
    from pyautoattack import AutoAttack

    attack = AutoAttack(
        model,
        norm="Linf",
        eps=epsilon,
        seed=0,
        version="custom",
        attacks=["apgd-ce", "apgd-dlr"],
    )
    attack.apgd.n_restarts, attack.apgd.n_iter = RESTARTS, STEPS
    found, _ = attack.run_standard_evaluation(images, labels, batch_size=BATCH)
    return found


def torchattacks(model, images, labels, epsilon):
    """Its APGD on both losses; the second on what is still robust."""
    import torchattacks as library

    found = images.clone()
    for loss in ("ce", "dlr"):
        attack = library.APGD(
            model,
            norm="Linf",
            eps=epsilon,
            steps=STEPS,
            n_restarts=RESTARTS,
            seed=0,
            loss=loss,
        )
        rows = (model(found).argmax(1) == labels).nonzero()[:, 0]
        if len(rows):
            found[rows] = attack(images[rows], labels[rows])
    return found


def foolbox(model, images, labels, epsilon):
    """Linf PGD on cross-entropy, 10 x 100: it has no AutoPGD."""
    import foolbox as library

    wrapped = library.PyTorchModel(model, bounds=(0, 1))
    found = images.clone()
    for _ in range(2 * RESTARTS):
        rows = (model(found).argmax(1) == labels).nonzero()[:, 0]
        if len(rows):
            attack = library.attacks.LinfPGD(steps=STEPS)
            _, found[rows], _ = attack(
                wrapped, images[rows], labels[rows], epsilons=epsilon
            )
    return found


def art(model, images, labels, epsilon):
    """ART's AutoPGD on both losses, eps_step = 2 epsilon."""
    import torch
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    found = images.clone()
    for loss in ("cross_entropy", "difference_logits_ratio"):
        classifier = PyTorchClassifier(
            model=model,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=10,
            clip_values=(0.0, 1.0),
        )
        attack = AutoProjectedGradientDescent(
            classifier,
            norm=np.inf,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=STEPS,
            nb_random_init=RESTARTS,
            batch_size=BATCH,
            loss_type=loss,
            verbose=False,
        )
        rows = (model(found).argmax(1) == labels).nonzero()[:, 0]
        if len(rows):
            made = attack.generate(images[rows].numpy(), labels[rows].numpy())
            found[rows] = torch.from_numpy(made)
    return found


PEERS = {f.__name__: f for f in (auto_attack, torchattacks, foolbox, art)}


def main(name, model, data, epsilon):
    try:
        import torch

        model = network(model)
        data = np.load(data)
        images = torch.from_numpy(data["images"].transpose(0, 3, 1, 2).copy())
        labels = torch.from_numpy(data["labels"].astype(np.int64))
        if name == "logits":
            print(json.dumps(model(images).tolist()))
            return
        found = PEERS[name](model, images, labels, float(epsilon))
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    far = float((found - images).abs().max())
    assert far <= float(epsilon) + 1e-6, f"{name} left the ball: {far}"
    robust = (model(found).argmax(1) == labels).double().mean()
    print(json.dumps({"robust_accuracy": float(robust)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
