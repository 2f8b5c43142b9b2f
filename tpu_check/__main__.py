"""Compiles every program for TPUs that are not there; see `make tpu-check`.

python -m tpu_check [--chips=v4,v5e,v6e] [--plant] [--output=results/...]
"""

import argparse
import json
import pathlib
import sys
import time

from tpu_check import compiler  # First: it sets variables.

# isort: split
import tensorflow as tf

from configs import cifar10_ceb
from configs import mnist_vib
from tpu_check import functional
from tpu_check import ops
from tpu_check import programs
from tpu_check import replicas

CIFAR = (32, 32, 3)
MNIST = (28, 28, 1)
SMALL = (8, 8, 3)
# Per core. The paper's batch of 1024 on four cores is 256 on each.
BATCH = 256
# A core's batches, ascending; which fit is found by bisection.
SIZES = (4096, 8192, 16384, 32768)
# What takes long to compile is compiled for one chip: others differ in tiling
# and in memory. The training steps are compiled for all.
MAIN_CHIP = "v5e"


def _plain(config, **changes):
    values = json.loads(config.to_json())
    return {**values, **changes}


def _small():
    """The CEB experiment around a network of a few weights, for attacks."""
    config = _plain(
        cifar10_ceb.get_config("smoke"),
        encoder={"name": "mlp", "hidden_units": (32,)},
    )
    return programs.build(config, SMALL, batch_size=8)


def steps(planted):
    """Training steps of one replica, for every chip."""
    config = _plain(mnist_vib.get_config())
    parts = programs.build(config, MNIST, batch_size=BATCH)
    yield "mnist_vib", programs.train_step(parts, BATCH, planted)


def others():
    """Evaluation and endpoints of both experiments' models."""
    for label, config, shape in (
        ("mnist_vib", mnist_vib.get_config(), MNIST),
        ("cifar10_ceb", cifar10_ceb.get_config(), CIFAR),
    ):
        parts = programs.build(_plain(config), shape, batch_size=BATCH)
        yield label, programs.eval_step(parts, BATCH)
        if shape == MNIST:
            for program in programs.endpoints(parts, BATCH):
                yield label, program


def attacks():
    """The steps of every attack that can be traced, and the judge."""
    logits_fn = programs.logits_of(_small())
    for label, section, norm in programs.attack_cases():
        if norm != "linf":
            continue
        for program in programs.attack(
            logits_fn, label, section, norm, 8, SMALL
        ):
            if program.name.endswith("steps"):
                yield "attack", program
    yield "attack", programs.judge(logits_fn, "linf", 8, SMALL)


def four_replicas(planted, precision="float32"):
    """The HLO of `cifar10_ceb`'s step by the strategy's own code."""
    with tf.Graph().as_default() as graph:
        made = replicas.strategy()
        config = _plain(cifar10_ceb.get_config(), precision=precision)
        total = BATCH * replicas.NUM_REPLICAS
        parts = programs.build(config, CIFAR, strategy=made, batch_size=total)
        step = programs.train_step(parts, BATCH, planted)
        images, labels, _ = step.specs

        def run(images, labels):
            # In a loop of several steps this is known at run time alone.
            return step.function(images, labels, tf.constant(True))

        replicas.run(made, run, (images, labels))
    _check(graph)
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes += function.node_def
    sums = [node for node in nodes if node.op == "CrossReplicaSum"]
    if len(sums) < len(parts.model.trainable_variables):
        raise RuntimeError("gradients are not added up over the replicas")
    return compiler.lower(*functional.of_cluster(graph))


def _check(graph):
    missing = ops.unsupported(graph)
    if missing:
        raise RuntimeError(f"operations without a kernel: {missing}")


def _lowered(program):
    _check(program.graph())
    pure, specs = functional.of_function(program.function, program.specs)
    return compiler.lower(pure, specs)


class Report:
    """Prints a line for each program, and keeps them."""

    def __init__(self):
        self.rows = []

    def add(self, name, chip, compiled=None, error=None, limit=None):
        row = {"program": name, "chip": chip, "ok": error is None}
        if compiled is not None:
            row |= {
                "seconds": round(compiled.seconds, 1),
                "gib": round(compiled.gib, 3),
                "of_gib": limit,
            }
            what = f"{compiled.seconds:5.1f} s {compiled.gib:7.3f} GiB"
            what += f" of {limit:g}"
        else:
            row["error"] = " ".join(str(error).split())[:300]
            what = f"FAILED: {row['error']}"
        self.rows.append(row)
        print(f"{chip:4} {name:48} {what}", flush=True)

    def compile(self, name, chips, lower, num_replicas=1):
        """Compiles one module for some chips."""
        try:
            module = lower()
        except Exception as error:  # Whatever the reason, it does not run.
            self.add(name, "all", error=error)
            return
        for chip_name, chip in chips.items():
            try:
                compiled = chip.compile(module, num_replicas)
            except Exception as error:
                self.add(name, chip_name, error=error)
                continue
            self.add(name, chip_name, compiled, limit=chip.gib)


def largest_batch(chip, precision):
    """The largest of `SIZES` whose training step a core's memory holds."""
    config = _plain(cifar10_ceb.get_config(), precision=precision)
    low, high = -1, len(SIZES)
    found = None
    while high - low > 1:
        middle = (low + high) // 2
        size = SIZES[middle]
        parts = programs.build(config, CIFAR, batch_size=size)
        module = _lowered(programs.train_step(parts, size))
        try:
            found = size, chip.compile(module)
            low = middle
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            high = middle
    return found


def main() -> int:
    """Returns 1 if a program cannot be compiled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", default=",".join(compiler.TOPOLOGIES))
    parser.add_argument(
        "--plant", action="store_true", help="put Python into train steps"
    )
    parser.add_argument("--output", help="a JSON file of the results")
    parser.add_argument(
        "--part",
        choices=("steps", "replicas", "others", "attacks", "batch"),
        help="this part alone",
    )
    flags = parser.parse_args()
    began = time.monotonic()
    chips = {name: compiler.Chip(name) for name in flags.chips.split(",")}
    report = Report()
    parts = [flags.part] if flags.part else []

    def wanted(name):
        return not parts or name in parts

    def compile_all(made, chosen):
        for label, program in made:
            report.compile(
                f"{label}: {program.name}",
                chosen,
                lambda program=program: _lowered(program),
            )

    main_chip = {
        name: chips[name]
        for name in [MAIN_CHIP if MAIN_CHIP in chips else next(iter(chips))]
    }
    if wanted("steps"):
        compile_all(steps(flags.plant), chips)
    if wanted("replicas"):
        for precision, chosen in (("bfloat16", chips), ("float32", main_chip)):
            report.compile(
                f"cifar10_ceb {precision}: train step of 4 replicas",
                chosen,
                lambda precision=precision: four_replicas(
                    flags.plant, precision
                ),
                replicas.NUM_REPLICAS,
            )
            if flags.plant:
                break
    if wanted("others") and not flags.plant:
        compile_all(others(), main_chip)
    if wanted("attacks") and not flags.plant:
        compile_all(attacks(), main_chip)
    largest = {}
    if wanted("batch") and not flags.plant:
        for name, chip in main_chip.items():
            found = largest_batch(chip, "bfloat16")
            size, gib = (found[0], found[1].gib) if found else (0, 0.0)
            largest[f"{name} bfloat16"] = size
            print(
                f"{name:4} cifar10_ceb bfloat16: of {SIZES} a core holds "
                f"{size}, with {gib:.1f} of {chip.gib:g} GiB",
                flush=True,
            )
    failed = sum(not row["ok"] for row in report.rows)
    seconds = time.monotonic() - began
    print(f"{len(report.rows)} compilations, {failed} failed, {seconds:.0f} s")
    if flags.output:
        result = {
            "tensorflow": tf.__version__,
            "seconds": round(seconds),
            "largest_batch_per_core": largest,
            "programs": report.rows,
        }
        text = json.dumps(result, indent=1) + "\n"
        pathlib.Path(flags.output).write_text(text, encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
