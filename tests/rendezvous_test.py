import json
import socket
import threading
import time

import pytest

from ib_keras import rendezvous
from tests.support import runs


def config(workers=("h0:1", "h1:2"), kind="worker", index=0, **more):
    jobs = {"worker": list(workers), **more}
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


def listen():
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"127.0.0.1:{server.getsockname()[1]}"


def free_address():
    server, address = listen()
    server.close()
    return address


def test_the_cluster_of_a_worker():
    assert rendezvous.read_tf_config(config(index=1)) == ("h1:2", ("h0:1",))


def test_the_cluster_of_a_chief():
    text = config(kind="chief", chief=["c:3"])
    assert rendezvous.read_tf_config(text) == ("c:3", ("h0:1", "h1:2"))


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config())
    assert rendezvous.read_tf_config().own == "h0:1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"cluster": {}, "task": {}}',
        config(index=2),
        config(index=-1),
        config(index="x"),
        config(kind="ps"),
        config(workers=["h0", "h1:2"]),
        config(workers=["h0:0", "h1:2"]),
        config(workers=["h0:70000", "h1:2"]),
        config(workers=["h0:1", "h0:1"]),
        config(ps=["h2:1"]),
    ],
)
def test_a_variable_that_describes_no_cluster_is_refused(text):
    error = runs.refused(rendezvous.read_tf_config, text)
    assert "TF_CONFIG" in str(error)


def test_two_workers_meet_in_either_order():
    one, two = free_address(), free_address()
    first = threading.Thread(
        target=rendezvous.meet, args=(rendezvous.Cluster(one, (two,)), 20.0)
    )
    first.start()
    time.sleep(0.3)
    rendezvous.meet(rendezvous.Cluster(two, (one,)), 20.0)
    # The first may need another try; who has left must not be missed, which
    # is why TensorFlow's server takes the port over.
    with socket.create_server(("", int(two.rpartition(":")[2]))):
        first.join(20.0)
    assert not first.is_alive()


def test_a_worker_that_does_not_answer_is_named_in_time():
    server, there = listen()
    missing = free_address()
    cluster = rendezvous.Cluster(free_address(), (there, missing))
    began = time.monotonic()
    with server:
        error = runs.refused(rendezvous.meet, cluster, 0.5)
    assert time.monotonic() - began < 5
    assert error.received == f"nothing from {missing} within 0.5 seconds"


def test_a_port_that_is_taken_is_refused():
    server, address = listen()
    with server:
        error = runs.refused(
            rendezvous.meet, rendezvous.Cluster(address, ()), 0.5
        )
    assert address in error.received
