"""The audited model: any model, as functions to logits.

The files of this package, in the order of the work:

* `options`: what the user specifies, without TensorFlow.
* `loading`: from a checked folder or file to functions and variables.
* `signatures`: the choice of one function of several.
* `io_spec`: the format of inputs and outputs; `preprocessing`: of pixel values.
* `infer_io` (with `selection`): infers the specification by a few calls.
* `model`: the model itself, and its functions to logits.
* `checks`: refusals before anything is written; `behaviour`: observations from
  a few calls.
"""

from ib_keras import lazy

__all__ = [
    "MODES",
    "Options",
    "AuditedModel",
    "check_finite",
    "check_gradients",
    "from_function",
    "hash_folder",
    "load",
]

__getattr__ = lazy.names(
    __name__,
    {
        "check_finite": "checks",
        "check_gradients": "checks",
        "hash_folder": "options",
        "Options": "options",
        "MODES": "options",
        "AuditedModel": "model",
        "from_function": "model",
        "load": "model",
    },
)
