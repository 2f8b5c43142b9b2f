"""What the callbacks of all tracking services share."""

import numbers
from collections.abc import Mapping
from typing import Any

import keras


class Tracker(keras.callbacks.Callback):
    """Sends the logs of epochs, and audits, to where a subclass says.

    A subclass defines `send_epoch(metrics, epoch)` and `send_audit(metrics,
    texts)`, of names to floats and to strings.
    """

    def send_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        raise NotImplementedError

    def send_audit(
        self, metrics: Mapping[str, float], texts: Mapping[str, str]
    ) -> None:
        raise NotImplementedError

    def on_epoch_end(self, epoch, logs=None):
        metrics = {
            name: float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, numbers.Real)
        }
        self.send_epoch(metrics, epoch)

    def log_audit(self, result: Any, name: str = "audit") -> None:
        """Sends the numbers of a finished audit, and its verdict.

        Args:
            result: What `ib_keras.audit` returns.
            name: What the names of its numbers begin with: `audit/verdict`.
        """
        threat, (low, high) = result.audit.threat_model, result.robust_interval
        metrics = {
            "clean_accuracy": result.clean_accuracy,
            "robust_accuracy": result.robust_accuracy,
            "robust_accuracy_low": low,
            "robust_accuracy_high": high,
            "epsilon": threat.epsilon,
            "num_examples": result.audit.num_examples,
        }
        texts = {
            "protocol": result.audit.protocol,
            "mode": result.audit.mode,
            "norm": threat.norm,
            "verdict": result.verdict or "none",
        }
        self.send_audit(
            {f"{name}/{key}": float(value) for key, value in metrics.items()},
            {f"{name}/{key}": str(value) for key, value in texts.items()},
        )
