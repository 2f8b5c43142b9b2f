"""The audited model: anybody's, made into functions to logits.

The files of this package, in the order of the work:

* `options`: what a user says of a model, without TensorFlow.
* `loading`: a checked folder or file into functions and variables.
* `signatures`: which function of several is meant.
* `io_spec`: how images go in and scores come out; `outputs`: what scores are.
* `infer_io` (with `selection`): what the graph does not tell, by a few calls.
* `model`: the model itself, and its functions to logits.
* `checks`: refusals before anything is written; `behaviour`: what a few calls
  show of a model that answers.
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
