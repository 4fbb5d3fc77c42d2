"""What folders look like in MLflow, as plain data: a run and its seeds, a grid, its packs and their cells."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.config.replica import Replica, replicas_of
from dqlab.errors import DqlabError
from dqlab.files import path_within
from dqlab.tracking.folders import NOTES, SkippedRecords, read_notes, run_facts
from dqlab.tracking.records import (
    ChosenRecord,
    FailureRecord,
    GridRecord,
    JournalRecord,
    RunRecord,
    SummaryRecord,
    parse_record,
    read_record,
)

Results = tuple[list[Any], dict[str, str]]
"""MLflow's metrics, and tags."""
VIDEOS = "videos"
"""RUN/<replica>/videos/, and the artifacts' folder."""
JOURNAL = "metrics.jsonl"
ENDED_BY = {"FAILED": "failure.json", "FINISHED": "summary.json"}
"""The file that says how a replica ended, by MLflow's status."""
LONGEST_LINE = 1 << 20
"""Bytes of a journal's first line above which it is not read for its time."""


def _no_results() -> Results:
    return [], {}


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run, as its folder describes it.

    Attributes:
        key: which of the folder's runs it is.
        name, tags, parameters: as MLflow shows them.
        root: the folder out of which none of its files may lead.
        status: MLflow's word.
        place: of a replica, its own folder.
        files: artifacts, each with its folder among the artifacts.
        texts: artifacts that are no files here, by name.
        results: reads what is known only at its end: final metrics, and tags.
        children: runs below it.
    """

    key: str
    name: str
    root: Path
    tags: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""
    place: Path | None = None
    files: Mapping[Path, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    results: Callable[[], Results] = _no_results
    children: Sequence[TrackedRun] = ()

    @property
    def ended_by(self) -> Path | None:
        """The file whose time is its end."""
        return self.place / ENDED_BY[self.status] if self.place and self.status in ENDED_BY else None

    @property
    def journal(self) -> Path | None:
        """The file of its metrics."""
        return self.place / JOURNAL if self.place else None

    @property
    def began(self) -> float:
        """When, in seconds: its configuration was written, or its first record; 0 where nothing shows it."""
        if self.place is None:
            return min((child.began for child in self.children if child.began), default=0.0)
        times = [config.stat().st_mtime] if (config := self.place / "config.gin").exists() else []
        with suppress(OSError, ValueError), (self.place / JOURNAL).open("rb") as journal:
            times.append(parse_record(journal.readline(LONGEST_LINE), JournalRecord)["time"])
        return min(times, default=0.0)


def run_tree(path: Path, over: bool) -> TrackedRun:
    """A run of `dqlab train`: a parent, and a child for each replica, both with the operative configuration.

    Raises:
        RunError: it is no run's folder, or its run.json is damaged.
    """
    facts, name = run_facts(path), path.resolve().name
    tags, shared = {**run_tags(facts), **note_tags(path)}, facts.get("parameters", {})
    ended = {"finished": "FINISHED", "failed": "FAILED"}.get(facts["state"], "")
    replicas = replicas_of(facts)

    def child(replica: Replica) -> TrackedRun:
        own = path / replica.name
        status = _status(own, over) if ended else _unended(over)  # weights are chosen at the end
        if ended and status not in ENDED_BY:
            status = "FINISHED"  # its summary is missing, which will be told
        return TrackedRun(
            replica.name,
            " ".join(part for part in (name, replica.cell, f"seed {replica.seed}") if part),
            path,
            {**tags, "seed": str(replica.seed), **({"cell": replica.cell} if replica.cell else {})},
            {**shared, **replica.bindings},
            status,
            own,
            files=_files_of_replica(own, status),
            results=partial(_results, own, path, status),
        )

    return TrackedRun(
        "run",
        name,
        path,
        tags,
        shared,
        ended or _unended(over),
        files={path / "config.gin": ""} if ended else {},
        results=partial(_mean_scores, [path / replica.name for replica in replicas], path) if ended else _no_results,
        children=[child(replica) for replica in replicas],
    )


def pack_cells(path: Path, attempt: str, over: bool) -> list[TrackedRun]:
    """The cells of a grid's pack.

    Args:
        path: the pack's folder.
        attempt: tells it from packs of the same name before it.
        over: nobody trains it any more.

    Raises:
        RunError: it is no run's folder, or its run.json is damaged.
    """
    facts, scope = run_facts(path), f"{path.name} {attempt}".strip()
    tags = {**run_tags(facts), "pack": path.name}
    return [
        _cell(path, replica, f"{scope} {replica.name}", facts["task"], tags, over) for replica in replicas_of(facts)
    ]


def _cell(path: Path, replica: Replica, key: str, task: str, tags: Mapping[str, str], over: bool) -> TrackedRun:
    """A cell: few parameters, so that MLflow's comparisons can be read."""
    own, seed = path / replica.name, str(replica.seed)
    points = {axis_parameter(axis): str(text) for axis, text in replica.points.items()}
    status = _status(own, over)
    kept = ("config.gin", "summary.json", "failure.json", "curve.png") if status in ENDED_BY else ()
    return TrackedRun(
        key,
        f"{replica.cell} | {task} | seed {seed}",
        path,
        {**tags, "kind": "cell", "cell": replica.cell, "seed": seed, "task": task},
        {**points, "seed": seed, "task": task},
        status,
        own,
        {**{own / name: "" for name in kept if (own / name).exists()}, **_videos(own)},
        results=partial(_results, own, path, status),
    )


def grid_run(grid: Path, facts: GridRecord, over: bool) -> TrackedRun:
    """A grid's own run; its packs have cells of their own.

    Args:
        grid: its folder.
        facts: its grid.json.
        over: its driver has ended.
    """
    status = {"finished": "FINISHED", "incomplete": "FAILED", "interrupted": "KILLED"}.get(facts.get("state", ""))
    axes = "; ".join(f"{axis}: {', '.join(map(str, points))}" for axis, points in facts["axes"].items())
    lists = {name: ", ".join(map(str, facts[name])) for name in ("tasks", "seeds")}
    report = sorted(path for path in (grid / "report").rglob("*") if path.is_file() and not path.name.startswith("."))
    return TrackedRun(
        "grid",
        grid.resolve().name,
        grid,
        {  # tags, because a grid may grow and parameters stay as they were
            "kind": "grid",
            "grid": facts["name"],
            "axes": axes,
            **lists,
            "base": facts["base"],
            "cells": str(facts["cells"]),
            "caveat": facts.get("caveat", ""),
            **_versions(grid, facts),
            **note_tags(grid),
        },
        status=status or _unended(over),
        files={path: str(path.parent.relative_to(grid)) for path in report},
        texts={"grid.gin": facts["gin"]},
    )


def _versions(grid: Path, facts: GridRecord) -> dict[str, str]:
    """What the first pack that has begun says of the programs that train."""
    packs = (grid / "packs" / name for name in facts["packs"])
    first = next((pack for pack in packs if (pack / "run.json").exists()), None)
    tags: dict[str, str] = {}
    if first is not None:
        with suppress(DqlabError):  # it is told where the pack is sent
            tags = run_tags(run_facts(path_within(first, first.parent)))
    return {name: text for name, text in tags.items() if name.startswith("version.") or name == "git_commit"}


def run_tags(facts: RunRecord) -> dict[str, str]:
    """What a run's record says about it, as tags; `execution` is known only once it trains."""
    data = facts["data"]
    plain = ("task", "algorithm", "physics", "device", "device_name", "execution", "git_commit", "caveat")
    return {
        **{name: str(text) for name, text in facts.items() if name in plain},
        **({"cell": facts["cell"]} if facts.get("cell") else {}),
        "data_source": data["source"],
        "data_digest": data["digest"],
        "is_d4rl": str(data["is_d4rl"]),
        **{f"version.{name}": value for name, value in facts["versions"].items()},
        **{f"variant.{name}": value for name, value in facts.get("variants", {}).items()},
    }


TAG = "tag."
"""What the names of tags begin with that a run's owner has given it: none is one of dqlab's own."""


def note_tags(folder: Path) -> dict[str, str]:
    """The tags and the note that a run or a grid has been given, as MLflow shows them."""
    if not os.path.lexists(folder / NOTES):
        return {}
    notes = read_notes(folder)
    return {**{f"{TAG}{name}": text for name, text in notes["tags"].items()}, "mlflow.note.content": notes["note"]}


def axis_parameter(axis: str) -> str:
    """An axis' name as MLflow takes it, and apart from the parameters that every cell has."""
    name = re.sub(r"[^\w.\- ]+", "_", axis).strip() or "_"
    return f"axis {name}" if name in ("seed", "task", "cells") else name


def _unended(over: bool) -> str:
    return "KILLED" if over else "RUNNING"


def _status(path: Path, over: bool) -> str:
    """MLflow's status of a replica."""
    return next((status for status, name in ENDED_BY.items() if os.path.exists(path / name)), _unended(over))


def _videos(path: Path) -> dict[Path, str]:
    return dict.fromkeys(sorted((path / VIDEOS).glob("[!.]*")), VIDEOS)


def _files_of_replica(path: Path, status: str) -> dict[Path, str]:
    """All files of a plain run's replica, once it has ended; its videos also before."""
    if status not in ENDED_BY:
        return _videos(path)
    own = sorted(each for each in path.glob("[!.]*") if each.is_file() and each.name != JOURNAL)
    weights = sorted((path / "checkpoints").glob("*.safetensors"))
    end = {path / ENDED_BY[status]: ""}
    return {**end, **dict.fromkeys(own, ""), **dict.fromkeys(weights, "checkpoints"), **_videos(path)}


def _results(path: Path, root: Path, status: str) -> Results:
    """A replica's final score by every selection rule, at the step of the rule's checkpoint; or why it failed.

    Raises:
        RunError: a file is damaged, or a link.
    """
    tags, metrics = {}, []
    if status == "FAILED":
        failure = read_record(path_within(path / "failure.json", root), FailureRecord)
        tags = {"failure": f"{failure['kind']}: {failure['reason']}", "failure_step": str(failure.get("step"))}
    if status == "FINISHED":
        selection, at = _selection(path, root)
        metrics = [_score(rule, row["score_mean"], at, row["step"] or 0) for rule, row in selection.items()]
    return metrics, tags


def _selection(path: Path, root: Path) -> tuple[Mapping[str, ChosenRecord], int]:
    """What a replica's summary says, and when it was written, in milliseconds."""
    summary = path_within(path / "summary.json", root)
    return read_record(summary, SummaryRecord)["selection"], int(summary.stat().st_mtime * 1000)


def _mean_scores(replicas: Sequence[Path], root: Path) -> Results:
    """The mean of the finished replicas' scores; of those that cannot be read it is said where they are sent."""
    skipped, found = SkippedRecords(), []
    for path in replicas:
        with skipped.damaged():
            found += [_selection(path, root)] if _status(path, over=True) == "FINISHED" else []
    at = max((written for _, written in found), default=0)
    scores = {rule: [rows[rule]["score_mean"] for rows, _ in found] for rule in (found[0][0] if found else ())}
    return [_score(rule, sum(values) / len(values), at, 0) for rule, values in scores.items()], {}


def _score(rule: str, score: float, milliseconds: int, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(f"score/{rule}", score, milliseconds, step)
