"""Videos of a run's policies: kept in its folder, and sent as artifacts of the replicas that they show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dqlab.files import atomic_path
from dqlab.records import MemoryRecord, read
from dqlab.tracking.damage import Leaving
from dqlab.tracking.deleted import Lasting
from dqlab.tracking.folders import grid_of, is_grid
from dqlab.tracking.memory import Memory
from dqlab.tracking.mlflow import connect
from dqlab.tracking.runs import log_file

VIDEOS = "videos"
"""RUN/<replica>/videos/, and the artifacts' folder."""
MEMORY = "mlflow.json"


def is_tracked(run: Path) -> bool:
    """Whether a run, or the grid of a pack, was to be recorded in MLflow."""
    folder = grid_of(run) or run
    return any((folder / name).exists() for name in (MEMORY, "mlflow.log"))


def keep(video: Path, replica: Path, step: int) -> Path:
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
    leaving = Leaving()
    for run in runs:
        with leaving.damaged():
            _send(run, sorted(run.glob(f"*/{VIDEOS}/[!.]*")), uri)
    leaving.tell()


def _send(run: Path, videos: list[Path], uri: str) -> None:
    if not videos or not (run / MEMORY).exists():
        return
    memory = _memory(run, uri)
    sent, client = memory.state.setdefault("videos", {}), Lasting(connect(uri), memory)
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
    return Memory(run / MEMORY, uri, {}, read(run / MEMORY, MemoryRecord).get("grid", ""))


def _ids(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """MLflow's runs of the replicas."""
    yield from state.get("children", {}).items()
    yield from ((name, cell["run"]) for name, cell in state.get("cells", {}).items())
