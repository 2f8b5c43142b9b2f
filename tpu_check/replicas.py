"""`tf.distribute.TPUStrategy` over four cores that are made up.

Its own code runs, in graph mode, so the steps traced in it are those of a real
slice, with their sums over replicas.
"""

import numpy as np
import tensorflow as tf
from tensorflow.python.client import session
from tensorflow.python.distribute import values
from tensorflow.python.tpu import tpu_strategy_util
from tensorflow.python.tpu import tpu_system_metadata

NUM_REPLICAS = 4

_HOST = "/job:localhost/replica:0/task:0/device:"


def _topology():
    coordinates = [[x, y, 0, 0] for y in range(2) for x in range(2)]
    return tf.tpu.experimental.Topology(
        mesh_shape=[2, 2, 1, 1],
        device_coordinates=np.array([coordinates], np.int32),
    )


class _Resolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Says that this host has the cores of a topology."""

    task_type, task_id, environment = "localhost", 0, ""

    def __init__(self, topology):
        self._topology = topology

    def cluster_spec(self):
        return tf.train.ClusterSpec({})

    def master(self, *unused, **others):
        return ""

    def get_master(self):
        return ""

    def get_job_name(self):
        return "localhost"

    def get_tpu_system_metadata(self):
        kinds = [("CPU:0", "CPU"), ("TPU_SYSTEM:0", "TPU_SYSTEM")]
        kinds += [(f"TPU:{i}", "TPU") for i in range(NUM_REPLICAS)]
        return tpu_system_metadata.TPUSystemMetadata(
            num_cores=NUM_REPLICAS,
            num_hosts=1,
            num_of_cores_per_host=NUM_REPLICAS,
            topology=self._topology,
            devices=[
                session._DeviceAttributes(_HOST + name, kind, 1, 0)
                for name, kind in kinds
            ],
        )


def strategy():
    """A `TPUStrategy` of four replicas; call it in a graph."""
    topology = _topology()
    tpu_strategy_util._INITIALIZED_TPU_SYSTEMS[""] = topology
    assignment = tf.tpu.experimental.DeviceAssignment.build(
        topology, num_replicas=NUM_REPLICAS
    )
    return tf.distribute.TPUStrategy(
        _Resolver(topology), experimental_device_assignment=assignment
    )


def run(made, function, specs) -> None:
    """Calls `made.run` on placeholders of these specifications."""
    arguments = [
        values.PerReplica(
            [
                tf.compat.v1.placeholder(spec.dtype, spec.shape)
                for _ in range(NUM_REPLICAS)
            ]
        )
        for spec in specs
    ]
    made.run(function, args=tuple(arguments))
