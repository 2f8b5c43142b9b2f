"""Epochs and audits in Weights & Biases.

from ib_keras.tracking.wandb import WandbCallback
with wandb.init(project="robustness"):
    track = WandbCallback()
    model.fit(..., callbacks=[AuditCallback(...), track])
    track.log_audit(ib_keras.audit(model, images, labels, epsilon=0.1))
"""

from ib_keras import lazy
from ib_keras.errors import UserError
from ib_keras.tracking import base


class WandbCallback(base.Tracker):
    """Logs the metrics of each epoch, and audits, to the active run of W&B.

    Put it behind the callbacks whose numbers it shall see, such as
    `AuditCallback` and `RateCallback`. An epoch is a step, with its number as
    `epoch`; an audit is in the run's summary.

    Raises:
        UserError: If wandb is not installed, or no run is active.
    """

    def __init__(self):
        super().__init__()
        self._run = lazy.optional("wandb", "wandb", "WandbCallback").run
        if self._run is None:
            raise UserError(
                "There is no run of Weights & Biases",
                received="wandb.run is None",
                expected="an active run",
                fix="Call wandb.init() before.",
            )

    def send_epoch(self, metrics, epoch):
        self._run.log({"epoch": epoch, **metrics})

    def send_audit(self, metrics, texts):
        self._run.summary.update({**metrics, **texts})
