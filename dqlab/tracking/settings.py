"""Where a run is recorded, as gin sets it."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.config.fields import check_fields
from dqlab.config.registry import configurable


@configurable("tracking")
@dataclass(frozen=True)
class Tracking:
    """Where a run is recorded besides its folder.

    Attributes:
        mlflow: whether to record in MLflow ($MLFLOW_TRACKING_URI, or mlflow.db beside the runs).
        experiment: MLflow's experiment; the task's name if empty.
        patience: seconds to wait at the end for the last records to be sent.
        keep_checkpoints: keep the weights of every evaluation, not only of the selected ones.
    """

    mlflow: bool = True
    experiment: str = ""
    patience: float = 60.0
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
