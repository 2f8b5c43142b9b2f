"""Attacks: what they are made of, and how to run one.

A part is a module with `build(**config section)` that returns an attack: an
object that fulfils `base.Attack`, a state machine over a batch. Attacks see a
function from images to logits, never a model, and propose images; the judge
in `engine.py` decides, and the pool in `runner.py` keeps the books.

    losses.py    what attacks maximise, per example
    scale.py     what logits are multiplied by for them, found once
    geometry.py  the ball cut with the box, per norm
    base.py      the contract; one gradient evaluation
    outputs.py   what a model answers with, made into logits
    engine.py    one run on one batch: chunks of compiled steps, compaction
    ledger.py    what a run knows of every example, and where it is
    runner.py    stages, restarts, targets and the pool
    others       one attack a file
"""

from ib_keras import lazy

__all__ = ["run"]

__getattr__ = lazy.names(
    __name__,
    {
        "run": "runner",
    },
)
