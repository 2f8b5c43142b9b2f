"""Trains a bottleneck by a config and exports it.

python -m launch.train --config=configs/mnist_vib.py --workdir=runs/mnist_vib
"""

import time

from launch import flags
from launch import outcomes

flags.define_config()
flags.define_workdir()
flags.define_quiet()
flags.define_strategy()
flags.define_watchdog()


def main() -> int:
    """Runs `ib_keras.training.loop.train`."""
    stop = flags.StopRequest()
    config = flags.config_values()

    from ib_keras import lazy
    from ib_keras.training import settings

    flags.check_strategy()
    is_alone = flags.FLAGS.strategy != "multi_worker"
    settings.check_start(config, flags.FLAGS.workdir, is_alone)

    began = time.monotonic()
    with lazy.importing():
        from ib_keras.training import loop

    imported = time.monotonic()
    devices = flags.make_strategy()
    startup = {
        "import": imported - began,
        "devices": time.monotonic() - imported,
    }
    workdir = flags.FLAGS.workdir
    result = loop.train(
        config,
        workdir,
        strategy=devices,
        should_stop=stop,
        watchdog_minutes=flags.FLAGS.watchdog_minutes,
        startup=startup,
        provenance={
            "git_commit": flags.git_commit(),
            "command": flags.command_line(),
        },
        quiet=flags.FLAGS.quiet,
    )
    outcomes.print_training(result, workdir)
    return 0


if __name__ == "__main__":
    flags.run(main)
