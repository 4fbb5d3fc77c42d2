"""Sending to MLflow, from the command line, what a run's or a grid's folder has and MLflow has not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dqlab.errors import RunError
from dqlab.printing import masked, one_line
from dqlab.run_folder import RunFolder
from dqlab.tracking.damage import LeftOutError
from dqlab.tracking.folders import facts_of, grid_of
from dqlab.tracking.mirror import mirror_environment
from dqlab.tracking.mlflow import tracking_uri


def warn_unsent(path: Path) -> None:
    """Say on standard error that MLflow lacks some of a run or of a grid, why, and what to do; quiet or not."""
    log = path / "mlflow.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    why = f" ({said[-1][:300]})" if said else ""
    print(f"dqlab: warning: MLflow does not have all of it yet{why}. Later: dqlab sync {path}", file=sys.stderr)


def send_rest(path: Path) -> tuple[Path, str]:
    """Send the rest; a pack's folder stands for its grid.

    Returns:
        What was sent, and the tracking URI, without a password.

    Raises:
        RunError: it is neither a run's nor a grid's folder, or the server cannot be reached.
    """
    from dqlab.tracking.sending import send

    path = grid_of(path) or path
    facts = facts_of(path)
    os.environ.update(mirror_environment())
    uri = tracking_uri(path)
    try:
        send(path, facts.get("mlflow_experiment") or path.resolve().name, over=not RunFolder(path).in_use())
    except LeftOutError as error:
        raise RunError(f"{path} was sent to {masked(uri)}, but for this: {error}") from error
    except Exception as error:
        raise RunError(f"{path} could not be sent to {masked(uri)}: {one_line(error)}") from error
    return path, masked(uri)
