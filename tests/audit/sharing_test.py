"""Several processes find what one would have found."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ib_keras import strategy as strategies
from ib_keras.attacks import ledger as ledgers
from ib_keras.audit import protocol
from ib_keras.audit import radius
from ib_keras.audit import runner
from ib_keras.audit import sharing
from ib_keras.errors import Interrupted
from tests.audit.runner_test import Parts
from tests.audit.runner_test import read
from tests.audit.runner_test import two_stages
from tests.support import runs
from tests.training.workers_test import free_ports

# Fields of the ledger that rounding may change a little.
FLOATS = ("margin", "wrong_share", "loss", "gradient_norm")


def config(**changes):
    """25 digits in batches of 8: FGS, then two runs of PGD, at two radii."""
    return two_stages(
        **{
            "num_examples": 25,
            "batch_size": 8,
            "stages.pgd.num_restarts": 2,
            "stages.pgd.attack.num_steps": 4,
            "stages.pgd.attack.step_size": 0.06,
            **changes,
        }
    )


def assert_same(summary, examples, expected_summary, expected):
    """Equal but for rounding: what is counted to the last one."""
    for name, array in expected.items():
        if name in FLOATS:
            np.testing.assert_allclose(
                examples[name], array, rtol=1e-4, atol=1e-4, err_msg=name
            )
        elif name == "adversarial_images":
            np.testing.assert_allclose(examples[name], array, atol=1e-5)
        else:
            np.testing.assert_array_equal(examples[name], array, name)
    timed = ("seconds", "stages", "command", "safety", "expected_accuracy")
    for name in expected_summary:
        if name not in timed:
            assert summary[name] == expected_summary[name], name
    for ours, theirs in zip(
        summary["stages"], expected_summary["stages"], strict=True
    ):
        ours, theirs = dict(ours), dict(theirs)
        assert ours.pop("seconds") > 0 < theirs.pop("seconds")
        assert ours == theirs


# In one process.


class Place(sharing.Team):
    """A process of a team whose others are played by this one too."""

    def wait(self):
        pass


@pytest.fixture(scope="module")
def parts():
    return Parts(config())


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    parts.run(folder)
    return folder


@pytest.mark.parametrize("count", [2, 3])
def test_shares_put_together_are_the_whole(parts, whole, tmp_path, count):
    """Whatever the number of shares, with each stopped on its way."""
    for index in range(count):
        team = Place(None, index, count)
        own, _ = team.share(25, index)
        part = audit_of(parts, tmp_path, own)
        with pytest.raises(Interrupted):
            team.attack([part], runs.Clock(3))
        team.attack([part], lambda: False)
    team = Place(None, 0, count)
    part = audit_of(parts, tmp_path, 0)
    part.finish(team.gather(part))
    assert_same(*read(tmp_path), *read(whole))
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "summary.json"]


def audit_of(parts, folder, first):
    attacker = protocol.build_runner(
        parts.config, parts.subject, parts.stages, None, first
    )
    return radius.Audit(
        parts.config, parts.subject, parts.stages, attacker, str(folder), True
    )


def test_missing_progress_is_refused(parts, tmp_path):
    team = Place(None, 0, 2)
    part = audit_of(parts, tmp_path, 0)
    team.attack([part], lambda: False)
    error = runs.refused(team.gather, part)
    assert "worker_1_of_2" in error.received


def test_each_example_is_in_one_share():
    for count in (1, 2, 3, 7):
        team = sharing.Team(None, 0, count)
        slices = [team.share(23, index) for index in range(count)]
        assert slices[0][0] == 0
        assert slices[-1][1] == 23
        assert all(
            a[1] == b[0] for a, b in zip(slices, slices[1:], strict=False)
        )
        sizes = [last - first for first, last in slices]
        assert max(sizes) - min(sizes) <= 1


def test_fewer_examples_than_workers_are_refused():
    error = runs.refused(sharing.Team(None, 0, 3).check, {}, 2)
    assert error.received == "2 examples for 3 workers"


def test_one_process_is_a_team_of_its_own():
    for strategy in (None, strategies.get("one_device")):
        team = sharing.Team.of(strategy)
        assert (team.index, team.count) == (0, 1)
        assert team.is_alone
        assert team.devices is strategy
        team.wait()


def test_sums_over_shares():
    """The statistics of a stage, by hand."""

    def progress(num_robust, seconds):
        ledger = ledgers.Ledger.new(np.zeros([1, 2]), np.zeros(1, int))
        curve = [[0, 0, num_robust, 10], [1, 0, num_robust - 1, 15]]
        statistics = ledgers.StageStatistics(num_robust + 1, 15, seconds, curve)
        place = ledgers.Position(1, clean_done=True)
        return ledgers.Progress(ledger, place, [statistics])

    merged = ledgers.merge([progress(5, 2.0), progress(3, 4.0)])
    assert len(merged.ledger.label) == 2
    assert merged.stages == [
        ledgers.StageStatistics(10, 30, 4.0, [[0, 0, 8, 20], [1, 0, 6, 30]])
    ]
    assert merged.position.stage == 1


# In two.

_WORKER = """
import json, os, sys

config, model, workdir = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
from ib_keras import errors
from ib_keras import strategy
from ib_keras.audit import radius
from ib_keras.audit import runner

pause = float(sys.argv[4])
save = radius.Audit._save
def slowly(self, progress):
    import time
    save(self, progress)
    print("saved", flush=True)
    time.sleep(pause)
if pause:
    radius.Audit._save = slowly
    radius.Audit._save_every = lambda self: -1.0
try:
    devices = strategy.get("multi_worker", timeout=60.0)
    runner.audit(config, model, workdir, strategy=devices, quiet=True)
except (errors.UserError, errors.Interrupted) as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(error.exit_status)
"""


class Workers:
    """Two processes of one audit, killed at the end whatever happens.

    Args:
        configs: One for each.
        model: The SavedModel.
        workdir: Of both.
        pauses: Seconds that each waits after every batch, its progress saved.
    """

    def __init__(self, configs, model, workdir, pauses=(0, 0)):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.started = []
        for index, (config, pause) in enumerate(
            zip(configs, pauses, strict=True)
        ):
            task = {"type": "worker", "index": index}
            cluster = {"cluster": {"worker": addresses}, "task": task}
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-c", _WORKER, json.dumps(config)]
                    + [model, str(workdir), str(pause)],
                    env=os.environ
                    | {
                        "TF_CONFIG": json.dumps(cluster),
                        "TF_CPP_MIN_LOG_LEVEL": "3",
                    },
                    cwd=runs.ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for process in self.started:
            process.kill()
            process.communicate()

    def wait(self, timeout=240):
        """The exit statuses, and what was written of errors."""
        deadline = time.monotonic() + timeout
        said = [
            process.communicate(timeout=deadline - time.monotonic())[1]
            for process in self.started
        ]
        return [process.returncode for process in self.started], said


@pytest.mark.slow
def test_two_workers_audit_as_one_process_does(tmp_path):
    """Two radii, a worker killed on its way, and both started again."""
    model = runs.digits_model("vib")
    asked = config(epsilon_curve=[0.05])
    one, two = tmp_path / "one", tmp_path / "two"
    runner.audit(asked, model, str(one), quiet=True)
    with Workers([asked, asked], model, two, pauses=(0, 2.0)) as workers:
        for _ in range(2):
            assert workers.started[1].stdout.readline() == "saved\n"
        workers.started[1].send_signal(signal.SIGKILL)
        statuses, said = workers.wait()
    assert statuses == [75, -signal.SIGKILL], said
    assert "A worker was lost" in said[0]
    assert (two / "epsilon_0.05/worker_1_of_2/partial.npz").exists()
    with Workers([asked, asked], model, two) as workers:
        statuses, said = workers.wait()
    assert statuses == [0, 0], said
    for folder in (".", "epsilon_0.05"):
        assert_same(*read(two / folder), *read(one / folder))
        names = [os.listdir(workdir / folder) for workdir in (one, two)]
        assert sorted(names[0]) == sorted(names[1])


@pytest.mark.slow
def test_workers_that_audit_different_things_are_refused(tmp_path):
    asked = [config(), config(seed=1)]
    model = runs.digits_model("vib")
    with Workers(asked, model, tmp_path / "audit") as workers:
        statuses, said = workers.wait()
    assert 2 in statuses
    assert "digest of config and model" in "".join(said)
    assert not (tmp_path / "audit").exists()
