"""Images that a check made by itself, judged as the audit judges.

Some searches ask for nothing but predictions. They run outside of the pool,
and what they find goes before the same judge, with draws of its own.
"""

from collections.abc import Callable

import numpy as np

from ib_keras import strategy as strategies
from ib_keras import watchdog
from ib_keras.attacks import compiled
from ib_keras.attacks import judging
from ib_keras.audit.diagnostics.case import Case

_BATCH = 500


def _judge(case):
    logits = compiled.on(
        case.subject.logits_fn,
        case.strategy,
        strategies.jit_compile(case.strategy),
    )
    norm = case.threat_model.norm
    size = case.batch_size or _BATCH
    return judging.Judge(logits, norm, case.num_draws, size)


def judge(
    case: Case, rows: np.ndarray, images: np.ndarray, purpose: int = 0
) -> judging.Judgement:
    """The judgement of images of these examples.

    Args:
        case: The audit.
        rows: Positions of examples; one may be there several times.
        images: float32 `[rows, ...]`; projected into their balls first.
        purpose: Another number gives other draws of the model's noise.

    Returns:
        A `Judgement` of NumPy arrays.
    """
    watchdog.beat()
    return _judge(case)(
        case.subject.images[rows],
        images,
        case.subject.labels[rows],
        case.threat_model.epsilon,
        case.seed_of(36, purpose),
        is_thorough=True,
    )


def decider(case: Case, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that says which images of these examples are misclassified.

    It takes images anywhere in the box, in the order of the rows. A model with
    noise is asked on the same few draws each time, so that a search can
    compare its answers.
    """
    ask = _judge(case)

    def is_wrong(images: np.ndarray) -> np.ndarray:
        watchdog.beat()
        # Balls of the whole box: a ray begins far from its example.
        return ask(
            images,
            images,
            case.subject.labels[rows],
            1.0,
            case.seed_of(36, 1),
        ).is_wrong

    return is_wrong
