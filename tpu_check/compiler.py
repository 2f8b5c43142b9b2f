"""TensorFlow's lowering for TPUs, and libtpu's compiler for a chip by name.

Import this module first: it sets variables that both read when they start.
"""

import importlib.util
import os
import pathlib
import time
import warnings
from typing import NamedTuple

# While TensorFlow lowers, libtpu must stay out of it: it would look for chips.
os.environ["TPU_LIBRARY_PATH"] = "/nonexistent"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# It imports JAX, which says what is meant.
warnings.filterwarnings("ignore", message="TPU_LIBRARY_PATH")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

_LIBTPU = pathlib.Path(importlib.util.find_spec("libtpu").origin).parent
os.environ.update(
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    JAX_PLATFORMS="cpu",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_LIBRARY_PATH=str(_LIBTPU / "libtpu.so"),
    TPU_MIN_LOG_LEVEL="3",
    TPU_SKIP_MDS_QUERY="1",
    TPU_STDERR_LOG_LEVEL="3",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
)

from jax._src.interpreters import mlir  # noqa: E402
from jax._src.lib import _jax  # noqa: E402
from jax._src.lib import xla_client  # noqa: E402
from jax._src.lib.mlir import ir  # noqa: E402
from jax.experimental import topologies  # noqa: E402

# Chip -> its smallest host with four of them, and GiB of memory a core.
TOPOLOGIES = {
    "v4": ("v4:2x2x1", 32.0),
    "v5e": ("v5e:2x2", 16.0),
    "v6e": ("v6e:2x2", 32.0),
}


class Compiled(NamedTuple):
    """What the compiler said of a program that it compiled.

    Attributes:
        seconds: It took.
        gib: Memory of arguments, results and what is between, GiB.
    """

    seconds: float
    gib: float


def lower(function, specs) -> bytes:
    """The HLO module of a function of tensors, for a TPU."""
    tensors = [tf.TensorSpec(s.shape, s.dtype) for s in specs]
    make = function.experimental_get_compiler_ir(*tensors)
    return make(stage="hlo_serialized", platform_name="TPU")


class Chip:
    """The compiler of one kind of chip.

    Args:
        name: A key of `TOPOLOGIES`.
    """

    def __init__(self, name: str):
        topology, self.gib = TOPOLOGIES[name]
        self._devices = topologies.get_topology_desc(
            platform="tpu", topology_name=topology
        ).devices

    def compile(self, module: bytes, num_replicas: int = 1) -> Compiled:
        """Compiles an HLO module; an error says why that cannot be done."""
        began = time.monotonic()
        devices = self._devices[:num_replicas]
        options = xla_client.CompileOptions()
        options.num_replicas = num_replicas
        options.num_partitions = 1
        options.device_assignment = xla_client.DeviceAssignment.create(
            np.array([[device.id] for device in devices])
        )
        build = options.executable_build_options
        build.exec_time_optimization_effort = -1.0
        with mlir.make_ir_context():
            parsed = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(module))
            parsed.operation.attributes["sym_name"] = ir.StringAttr.get("m")
            made = devices[0].client.compile(
                parsed,
                executable_devices=xla_client.DeviceList(tuple(devices)),
                compile_options=options,
            )
        memory = made.get_compiled_memory_stats()
        total = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        return Compiled(time.monotonic() - began, total / 2**30)
