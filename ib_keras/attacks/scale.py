"""The scale of a model's logits, measured once on clean images.

A classifier is the same when its logits are multiplied by a positive number.
Cross-entropy is not: with logits that are too large its gradient vanishes in
float32, with logits that are too small it increases the mean of all other
classes instead of the nearest. So attacks see the logits times a power of two,
which rounds nothing and changes no prediction. Of an ordinary model it is 1:
one whose right answers lead by no more than float32 resolves, and whose labels
would not be likelier at two and a half times the logits or more. (Linear models
and some that are trained to be robust are at twice.) Where they would be, the
power is the next above: too large by less than two costs nothing, too small
does.

What is added to all logits of an example changes nothing either, for losses
take differences before anything else.

A model with noise averages probabilities over its draws. The scale is applied
to the logarithm of that mean, which attacks maximise, and never to the draws,
which define the classifier.
"""

import math

import numpy as np

# By this lead float32 rounds p(label) to 1: its logit has no gradient left.
_RESOLVED = 24 * math.log(2)
# Shares of the right answers whose lead is to be below that: logits are made
# smaller where the first share is not, and no larger than the second allows.
_MOST, _NEARLY_ALL = 0.75, 0.95
# Of a label's probability, spread over all classes: where every answer is
# right, likelihood alone would have no end.
_SMOOTHING = 1e-3
# Nats below which no class counts as farther: classes that a model masks, with
# -1e9, would outweigh all labels.
_FARTHEST = 100.0
_POWERS = np.arange(0, 41, 0.25)
# Logits are left alone that would be likeliest times less than this.
_SMALLEST = 2.5


def find(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor that attacks multiply logits by.

    Args:
        logits: float `[examples, classes]`, of clean images.
        labels: int `[examples]`.

    Returns:
        A power of two; 1.0 where the logits are of an ordinary scale, or
        where no answer is right, for then nothing is attacked.
    """
    finite = np.isfinite(logits).all(axis=1)
    logits, labels = logits[finite].astype(np.float64), labels[finite]
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    lead = logits[rows, labels] - others.max(axis=1)
    if not (lead > 0).any():
        return 1.0
    most, nearly_all = np.quantile(lead[lead > 0], (_MOST, _NEARLY_ALL))
    if most > _RESOLVED:
        return 2.0 ** _power_within(most)
    likeliest = _likeliest(logits, labels)
    power = min(math.ceil(likeliest), _power_within(nearly_all))
    return 2.0**power if min(2.0**likeliest, 2.0**power) > _SMALLEST else 1.0


def _power_within(lead) -> int:
    """The largest power of two by which a lead stays within float32."""
    return math.floor(math.log2(_RESOLVED / lead))


def _likeliest(logits, labels) -> float:
    """The power of two, in quarters, at which the labels are likeliest."""
    below = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))

    def nats(power):
        scaled = below * 2.0**power
        sums = np.exp(scaled).sum(axis=1)
        spread = np.maximum(scaled, -_FARTHEST).mean(axis=1)
        of_label = (1 - _SMOOTHING) * scaled[rows, labels]
        return np.mean(np.log(sums) - of_label - _SMOOTHING * spread)

    return min(_POWERS, key=nats)
