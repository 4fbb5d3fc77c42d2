"""Send a folder, of a run or of a grid, to where it belongs."""

from __future__ import annotations

from pathlib import Path

from dqlab.tracking.folders import is_grid
from dqlab.tracking.grid import send_grid
from dqlab.tracking.mirror import only_mirror
from dqlab.tracking.mlflow import send_run, tracking_uri
from dqlab.tracking.videos import send_videos


def send(folder: Path, experiment: str, over: bool) -> str:
    """Send what has not been sent, one process at a time; returns the tracking URI.

    Args:
        folder: of a run or of a grid.
        experiment: MLflow's experiment.
        over: nobody writes into the folder any more.

    Raises:
        Exception: whatever MLflow's client raises; what was sent before is remembered.
    """
    uri = tracking_uri(folder)
    with only_mirror(folder):
        (send_grid if is_grid(folder) else send_run)(folder, uri, experiment, over)
        if over:
            send_videos(folder, uri)
    return uri
