import ib_keras  # noqa: F401  Before TensorFlow, as in the commands.
