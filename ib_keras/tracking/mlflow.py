"""Epochs and audits in MLflow.

from ib_keras.tracking.mlflow import MLflowCallback
track = MLflowCallback()
model.fit(..., callbacks=[AuditCallback(...), track])
track.log_audit(ib_keras.audit(model, images, labels, epsilon=0.1))
"""

from ib_keras import lazy
from ib_keras.tracking import base


class MLflowCallback(base.Tracker):
    """Logs the metrics of each epoch, and audits, to the active run of MLflow.

    Without an active run MLflow begins one. Put it behind the callbacks whose
    numbers it shall see, such as `AuditCallback` and `RateCallback`. Of an
    audit the numbers are metrics, verdict and protocol are tags.

    Raises:
        UserError: If MLflow is not installed.
    """

    def __init__(self):
        super().__init__()
        self._mlflow = lazy.optional("mlflow", "mlflow", "MLflowCallback")

    def send_epoch(self, metrics, epoch):
        self._mlflow.log_metrics(metrics, step=epoch)

    def send_audit(self, metrics, texts):
        self._mlflow.log_metrics(metrics)
        self._mlflow.set_tags(texts)
