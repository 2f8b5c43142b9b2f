r"""Training steps of PreActResNet18: float32, bfloat16, and PyTorch.

python -m venv /tmp/peers && /tmp/peers/bin/pip install -e ".[cpu]" torch
/tmp/peers/bin/python -m benchmarks.resnet

The paper's CIFAR-10 networks at batch 128. Ours are whole training steps of
the loop: CEB for bfloat16 against float32, the deterministic baseline against
the same network in PyTorch (channels last, its fused Adam, autocast for
bfloat16), whose batch is already cast and in memory. In turns in one process,
two threads each; without torch installed the peer is left out. An epoch is 390
such steps.
"""

import tensorflow as tf

from benchmarks import models
from benchmarks import timing

BATCH = 128
STEPS = 2
ROUNDS = 7
STEPS_OF_AN_EPOCH = 50000 // BATCH


def ours(bottleneck: str, precision: str):
    """A call of STEPS training steps."""
    steps, iterator, _ = models.steps(
        "cifar10", bottleneck, BATCH, precision=precision
    )
    return lambda: steps.train_steps(iterator, STEPS)


def peer(is_low: bool):
    """The same steps of the same network in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, narrow, wide, stride):
            super().__init__()
            self.norm1 = nn.BatchNorm2d(narrow)
            self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(wide)
            self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
            self.project = None
            if stride != 1 or narrow != wide:
                self.project = nn.Conv2d(narrow, wide, 1, stride, bias=False)

        def forward(self, x):
            active = functional.relu(self.norm1(x))
            shortcut = x if self.project is None else self.project(active)
            inner = functional.relu(self.norm2(self.conv1(active)))
            return shortcut + self.conv2(inner)

    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [
        Block(narrow, wide, 1 if narrow == wide else 2)
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True)
    ]
    dense = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        *blocks,
        nn.BatchNorm2d(512),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *dense,
        nn.Linear(1024, 256),
        nn.Linear(256, 10),
    ).to(memory_format=torch.channels_last)
    torch.set_num_threads(2)
    adam = torch.optim.Adam(model.parameters(), lr=0.012, fused=True)
    images, labels = models.batch("cifar10", BATCH)
    images = torch.tensor(images.numpy()).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(labels.numpy(), dtype=torch.int64)

    def call():
        for _ in range(STEPS):
            adam.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
            adam.step()
        return loss.item()

    return call


def main():
    functions = {
        "CEB, float32": ours("ceb", "float32"),
        "CEB, bfloat16": ours("ceb", "bfloat16"),
    }
    units = dict.fromkeys(functions, STEPS)
    table = timing.compare(functions, units, "CEB, float32", ROUNDS)
    timing.show(
        f"PreActResNet18 steps, batch {BATCH}",
        table,
        {"CEB, bfloat16": 1 / 1.5},
    )
    seconds = table["CEB, bfloat16"]["ms"] * STEPS_OF_AN_EPOCH / 1e3
    print(f"  an epoch in bfloat16, from these steps: {seconds:.0f} s")
    try:
        import torch  # noqa: F401
    except ImportError:
        print("\nPyTorch is not installed: no peer.")
        return
    for precision in ("float32", "bfloat16"):
        functions = {
            "PyTorch": peer(precision == "bfloat16"),
            "ours": ours("deterministic", precision),
        }
        units = dict.fromkeys(functions, STEPS)
        table = timing.compare(functions, units, "PyTorch", ROUNDS)
        timing.show(
            f"deterministic baseline, {precision}, batch {BATCH}",
            table,
            {"ours": 1.1},
        )


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(2)
    main()
