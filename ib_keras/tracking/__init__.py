"""Callbacks that hand what is measured to a tracking service, one a file."""

from ib_keras import lazy

__all__ = ["MLflowCallback", "WandbCallback"]

__getattr__ = lazy.names(
    __name__, {"MLflowCallback": "mlflow", "WandbCallback": "wandb"}
)
