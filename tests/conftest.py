"""What all tests share: two CPUs that TensorFlow takes for two devices."""

import gc
import pathlib

import ib_keras  # noqa: F401  Quiets TensorFlow, so it comes first.

# isort: split
import pytest

# What imports make stays; looking for garbage in it slows them, and afterwards
# every trace.
gc.disable()


def pytest_configure(config):
    """Sets TensorFlow up, except in the process that only starts workers."""
    is_worker = hasattr(config, "workerinput")
    if config.getoption("numprocesses", None) and not is_worker:
        return
    import tensorflow as tf

    # Before TensorFlow starts, so for the whole session; operations go to the
    # first device unless a test says otherwise.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    tf.config.experimental.enable_tensor_float_32_execution(False)
    # Rewriting graphs takes a sixth of the time of the tests, whose graphs run
    # few times. Commands that tests start rewrite theirs.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def forget(request):
    """Empties the caches of a module behind its last test.

    A compiled function takes some 10 MB, and modules keep dozens.
    """
    yield
    for value in vars(request.module).values():
        is_own = getattr(value, "__module__", None) == request.module.__name__
        if is_own and hasattr(value, "cache_clear"):
            value.cache_clear()
    gc.collect()


@pytest.fixture(scope="session")
def shared_folder() -> pathlib.Path:
    """The folder of prepared data and papers that lies beside a checkout."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"there is no folder {path}")
    return path
