r"""Trains and audits the grid of a figure of the paper.

python -m launch.sweep --config=configs/mnist_vib.py:cpu \
    --workdir=sweeps/mnist_vib_cpu --workers=2
python -m launch.sweep --config=configs/mnist_vib.py:cpu \
    --workdir=sweeps/mnist_vib_cpu --list

The grid is the config's `sweep()`. The same command resumes after it was
stopped or killed. Fields after --config, such as --config.num_epochs=2, are
for all runs that have them.
"""

import importlib
import importlib.machinery
import json
import os
import types

from absl import flags as absl_flags
from ml_collections import config_flags

from launch import flags

flags.define_config()
flags.define_workdir()
flags.define_quiet()
absl_flags.DEFINE_integer(
    "workers",
    1,
    "Number of processes; 1 runs in this one, more need the extra `cluster`.",
    lower_bound=1,
)
absl_flags.DEFINE_bool(
    "list", False, "Print the runs and their states, and stop."
)
absl_flags.DEFINE_string(
    "only", None, "Execute only runs whose names match this regular expression."
)


def _load(path: str) -> types.ModuleType:
    """The module of a config file, which can be anywhere."""
    name = os.path.splitext(os.path.basename(path))[0]
    module = types.ModuleType(name)
    module.__file__ = path
    importlib.machinery.SourceFileLoader(name, path).exec_module(module)
    return module


def _values(config):
    return json.loads(config.to_json(sort_keys=False))


def _make_plan():
    """The grid of the config's `sweep()`, complete and checked."""
    from ib_keras.errors import UserError
    from ib_keras.sweeps import plan

    flag = flags.FLAGS["config"]
    path, _, preset = config_flags.get_config_filename(flag).partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    own = _load(path)
    if not hasattr(own, "sweep"):
        raise UserError(
            "The config has no grid",
            received=f"{path}, which does not define sweep()",
            expected="a config such as configs/mnist_vib.py",
            fix="Take the config of a bottleneck; its grid has the baseline, "
            "too.",
        )

    def get_config(other, presets):
        module = own
        if other != name:
            beside = os.path.join(os.path.dirname(path), f"{other}.py")
            is_there = os.path.exists(beside)
            module = _load(beside) if is_there else _module(other)
        return _values(module.get_config(presets))

    return plan.make(
        name,
        preset,
        own.sweep,
        get_config,
        lambda protocol: _values(_module(f"audits.{protocol}").get_config()),
        config_flags.get_override_values(flag),
    )


def _module(name: str):
    from ib_keras.errors import UserError

    try:
        return importlib.import_module(f"configs.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            "The sweep names a config that does not exist",
            received=f"{name} ({error})",
            expected="the name of a module of configs/ or configs/audits/",
            fix="Correct the config's sweep().",
        ) from error


def _print_list(plan, values) -> int:
    from ib_keras.sweeps import sweep
    from ib_keras.sweeps.folder import Folder

    states = sweep.states(Folder(values.workdir), plan)
    found = _chosen(states, plan, values.only)
    width = max(len(run.name) for run, _, _ in found)
    for run, status, record in found:
        collapsed = (record or {}).get("collapsed")
        said = f"{status}, {collapsed}" if collapsed else status
        parts = ["training", *run.audits]
        parts += ["landscapes"] * (run.landscape is not None)
        print(f"{run.name.ljust(width)}  {said}; {', '.join(parts)}")
    print(f"{len(found)} runs. {plan.budget}")
    print(
        sweep.estimate(found, values.workers)
        or "No run has finished, so there is no estimate of the time."
    )
    return 0


def _chosen(states, plan, only):
    from ib_keras.sweeps import sweep

    names = {run.name for run in sweep.choose(plan, only)}
    return [state for state in states if state[0].name in names]


def main() -> int:
    """Runs `ib_keras.sweeps.sweep.run` and prints what it did as a table."""
    stop = flags.StopRequest()
    plan = _make_plan()

    from ib_keras.cluster import schedulers
    from ib_keras.sweeps import plan as plans
    from ib_keras.training import settings

    if flags.FLAGS.workers > 1 and not flags.FLAGS.list:
        schedulers.check_installed()

    # Before TensorFlow is imported.
    for run in plans.choose(plan, flags.FLAGS.only):
        settings.check_values(run.config)

    from ib_keras.sweeps import records
    from ib_keras.sweeps import sweep
    from ib_keras.sweeps import table
    from ib_keras.sweeps.folder import Folder

    values = flags.FLAGS
    if values.list:
        return _print_list(plan, values)
    states = sweep.run(
        plan,
        values.workdir,
        num_workers=values.workers,
        only=values.only,
        should_stop=stop,
        command=flags.command_line(),
        git_commit=flags.git_commit(),
        quiet=values.quiet,
    )
    found = _chosen(states, plan, values.only)
    print(table.to_text(table.rows(found)))
    print(f"Table: {Folder(values.workdir).table}")
    failed = [
        (run.name, record["error"])
        for run, status, record in found
        if status == records.FAILED
    ]
    for name, error in failed:
        print(f"Failed: {name}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    flags.run(main)
