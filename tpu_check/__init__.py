"""Whether everything that is to run on a TPU compiles for it, without a TPU.

Part of a checkout, not of the package. `ops` looks the operations of traced
graphs up in a table, which takes stock TensorFlow and seconds;
`python -m tpu_check`, run by `make tpu-check`, asks the real compiler.
"""
