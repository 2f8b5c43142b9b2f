"""Regenerates xla_ops.json: the operations that XLA can compile.

python -m ib_keras.audit.safety.regenerate

Run it after an upgrade of TensorFlow; review the difference before it is
committed. An operation that XLA compiles has no effect on the host, except for
the few that `ops.py` removes.
"""

import tensorflow as tf
from tensorflow.python.framework import kernels

from ib_keras import files
from ib_keras.audit.safety import ops


def names() -> list[str]:
    """Sorted names of the operations with a kernel for XLA on CPUs."""
    # The kernels are registered by the first compilation.
    one = tf.constant(1.0)
    tf.function(tf.identity, jit_compile=True)(one)
    listed = kernels.get_all_registered_kernels().kernel
    return sorted({k.op for k in listed if k.device_type == "XLA_CPU_JIT"})


def main() -> None:
    """Writes the file beside this one."""
    found = {"tensorflow": tf.__version__, "ops": names()}
    files.write_json(str(ops.XLA_OPS_FILE), found)


if __name__ == "__main__":
    main()
