"""Attacks: their parts, and how to run them.

A part is a module with `build(**config section)` that returns an attack: an
object that implements `base.Attack`, a state machine over a batch. Attacks get
a function from images to logits, never a model, and propose images; the judge
in `judging.py` decides, and the pool in `runner.py` keeps the ledger.

    losses.py    what attacks maximise, per example
    scale.py     the factor of the logits for them, measured once
    geometry.py  the ball intersected with the box, per norm
    base.py      the contract; one gradient evaluation
    outputs.py   from the outputs of a model to logits
    engine.py    one run on one batch: chunks of compiled steps, compaction
    ledger.py    what a run knows of every example, and where it is
    runner.py    stages, restarts, targets and the pool
    others       one attack per file
"""

from ib_keras import lazy

__all__ = ["run"]

__getattr__ = lazy.names(
    __name__,
    {
        "run": "runner",
    },
)
