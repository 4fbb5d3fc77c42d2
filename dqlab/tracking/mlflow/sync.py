"""Send a folder, of a run or of a grid, to where it belongs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dqlab.errors import RunError, masked, one_line
from dqlab.files import atomic_path
from dqlab.tracking.folders import LeftOutError, SkippedRecords, grid_of, is_grid, read_facts
from dqlab.tracking.mlflow.client import log_file, mirror_environment, mlflow_client, tracking_uri
from dqlab.tracking.mlflow.grid import send_grid
from dqlab.tracking.mlflow.memory import DeletedRunGuard, Memory, only_mirror
from dqlab.tracking.mlflow.run import send_run
from dqlab.tracking.records import MemoryRecord, read_record
from dqlab.tracking.run_folder import RunFolder


def warn_unsent(path: Path) -> None:
    """Say on standard error that MLflow lacks some of a run or of a grid, why, and what to do; quiet or not."""
    log = path / "mlflow.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    why = f" ({said[-1][:300]})" if said else ""
    print(f"dqlab: warning: MLflow does not have all of it yet{why}. Later: dqlab sync {path}", file=sys.stderr)


def sync_to_mlflow(path: Path) -> tuple[Path, str]:
    """Send the rest; a pack's folder stands for its grid.

    Returns:
        What was sent, and the tracking URI, without a password.

    Raises:
        RunError: it is neither a run's nor a grid's folder, or the server cannot be reached.
    """
    path = grid_of(path) or path
    facts = read_facts(path)
    os.environ.update(mirror_environment())
    uri = tracking_uri(path)
    try:
        send_pending(path, facts.get("mlflow_experiment") or path.resolve().name, over=not RunFolder(path).in_use())
    except LeftOutError as error:
        raise RunError(f"{path} was sent to {masked(uri)}, but for this: {error}") from error
    except Exception as error:
        raise RunError(f"{path} could not be sent to {masked(uri)}: {one_line(error)}") from error
    return path, masked(uri)


VIDEOS = "videos"
"""RUN/<replica>/videos/, and the artifacts' folder."""
MEMORY = "mlflow.json"


def is_tracked(run: Path) -> bool:
    """Whether a run, or the grid of a pack, was to be recorded in MLflow."""
    folder = grid_of(run) or run
    return any((folder / name).exists() for name in (MEMORY, "mlflow.log"))


def keep_video(video: Path, replica: Path, step: int) -> Path:
    """Copy a video of a policy of `step` updates into its replica's folder; returns the copy."""
    kept = replica / VIDEOS / f"step-{step:09d}{video.suffix.lower()}"
    if not (kept.exists() and kept.samefile(video)):
        with atomic_path(kept) as temporary:
            shutil.copyfile(video, temporary)
    return kept


def send_videos(folder: Path, uri: str) -> None:
    """Send the videos that MLflow does not have, or has an older version of.

    Args:
        folder: of a run or of a grid, of which all else has been sent.
        uri: MLflow's tracking URI.

    Raises:
        LeftOutError: something in the folder is damaged, or a link; the other runs' videos were sent.
        Exception: whatever MLflow's client raises; what was sent before is remembered.
    """
    runs = sorted((folder / "packs").glob("*")) if is_grid(folder) else [folder]
    leaving = SkippedRecords()
    for run in runs:
        with leaving.damaged():
            _send(run, sorted(run.glob(f"*/{VIDEOS}/[!.]*")), uri)
    leaving.tell()


def _send(run: Path, videos: list[Path], uri: str) -> None:
    if not videos or not (run / MEMORY).exists():
        return
    memory = _memory(run, uri)
    sent, client = memory.state.setdefault("videos", {}), DeletedRunGuard(mlflow_client(uri), memory)
    ids = dict(_ids(memory.state))
    for video in videos:
        name, replica = str(video.relative_to(run)), video.parent.parent.name
        mark = f"{video.stat().st_mtime_ns} {video.stat().st_size}"
        if replica in ids and sent.get(name) != mark:
            log_file(client, ids[replica], video, run, VIDEOS)
            sent[name] = mark
            memory.save()


def _memory(run: Path, uri: str) -> Memory:
    """What its mirror remembers: of a plain run, or of a pack below its grid's run."""
    return Memory(run / MEMORY, uri, {}, read_record(run / MEMORY, MemoryRecord).get("grid", ""))


def _ids(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """MLflow's runs of the replicas."""
    yield from state.get("children", {}).items()
    yield from ((name, cell["run"]) for name, cell in state.get("cells", {}).items())


def send_pending(folder: Path, experiment: str, over: bool) -> str:
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
