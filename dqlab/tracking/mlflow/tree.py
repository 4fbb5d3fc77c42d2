"""What folders look like in MLflow, as plain data: a run and its seeds, a grid, its packs and their cells."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.config.identity import Replica, replicas_of
from dqlab.errors import DqlabError
from dqlab.files import path_within, read_text
from dqlab.tracking import records
from dqlab.tracking.folders import NOTES, SkippedRecords, read_notes, read_reused, reused_cells
from dqlab.tracking.run_folder import RunFolder

Results = tuple[list[records.JournalRecord], dict[str, str]]  # metrics, and tags
Sent = Mapping[str, records.SentRecord]  # what MLflow has of a folder's runs, by key
VIDEOS = "videos"  # RUN/<replica>/videos/, and the artifacts' folder
JOURNAL = "metrics.jsonl"
ENDED_BY = {"FAILED": "failure.json", "FINISHED": "summary.json"}  # how a replica ended, by MLflow's status
TAG = "tag."  # what the names of tags begin with that a run's owner has given it: none is one of dqlab's own


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run, as its folder describes it."""

    key: str  # which of the folder's runs it is
    name: str
    root: Path  # the folder out of which none of its files may lead
    tags: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""  # MLflow's word; empty where it follows from the children's
    place: Path | None = None  # a replica's own folder
    journal: Path | None = None  # the file of its metrics, if these are sent
    files: Mapping[Path, str] = field(default_factory=dict)  # artifacts, each with its folder among the artifacts
    results: Callable[[], Results] = lambda: ([], {})  # reads what is known only at its end
    children: Sequence[TrackedRun] = ()

    @property
    def ended_by(self) -> Path | None:
        """The file whose time is its end."""
        return self.place / ENDED_BY[self.status] if self.place and self.status in ENDED_BY else None

    @property
    def began(self) -> float:
        """When its configuration was written, in seconds; 0 where there is none."""
        if self.place is None:
            return min((child.began for child in self.children if child.began), default=0.0)
        return config.stat().st_mtime if (config := self.place / "config.gin").exists() else 0.0


def run_tree(path: Path, unended: str) -> TrackedRun:
    """A run of `dqlab train`: a parent, and a child for each replica, both with the operative configuration."""
    facts, name = RunFolder(path).facts(), path.resolve().name
    tags, shared = {**run_tags(facts), **note_tags(path)}, facts.get("parameters", {})
    ended = {"finished": "FINISHED", "failed": "FAILED"}.get(facts["state"], "")
    replicas = replicas_of(facts)

    def child(replica: Replica) -> TrackedRun:
        own, seed = path / replica.name, str(replica.seed)
        status = _status(own, unended) if ended else unended  # weights are chosen at the end
        if ended and status not in ENDED_BY:
            status = "FINISHED"  # its summary is missing, which will be told
        title = " ".join(part for part in (name, replica.cell, f"seed {seed}") if part)
        tagged = {**tags, "seed": seed, **({"cell": replica.cell} if replica.cell else {})}
        files = _videos(own)
        if status in ENDED_BY:  # then all files, before only videos
            flat = sorted(each for each in own.glob("[!.]*") if each.is_file() and each.name != JOURNAL)
            weights = sorted((own / "checkpoints").glob("*.safetensors"))
            files |= {own / ENDED_BY[status]: "", **dict.fromkeys(flat, ""), **dict.fromkeys(weights, "checkpoints")}
        given, results = {**shared, **replica.bindings}, partial(_results, own, path, status)
        return TrackedRun(replica.name, title, path, tagged, given, status, own, own / JOURNAL, files, results=results)

    files = {path / "config.gin": ""} if ended else {}
    scores = partial(_mean_scores, [path / replica.name for replica in replicas if ended], path)
    top = TrackedRun("run", name, path, tags, shared, ended or unended, files=files, results=scores)
    return replace(top, children=[child(replica) for replica in replicas])


def pack_tree(path: Path, attempt: str, unended: str) -> TrackedRun:
    """A pack of a grid, and a child for each of its cells; `attempt` tells it from earlier packs of its name."""
    facts, scope = RunFolder(path).facts(), f"{path.name} {attempt}".strip()
    tags = {**run_tags(facts), "kind": "pack", "pack": path.name}
    cells = [_cell(path, each, f"{scope} {each.name}", facts["task"], tags, unended) for each in replicas_of(facts)]
    labels = list(dict.fromkeys(cell.tags["cell"] for cell in cells))
    title = f"pack {path.name[:8]}: " + "; ".join(labels[:3]) + ("; ..." if len(labels) > 3 else "")
    first, *others = (cell.parameters for cell in cells)
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    return TrackedRun(f"pack {scope}", title, path, tags, {**shared, "cells": len(cells)}, children=cells)


def _cell(
    path: Path, replica: Replica, key: str, task: str, tags: Mapping[str, str], unended: str, history: bool = True
) -> TrackedRun:
    """A cell: few parameters, so that MLflow's comparisons can be read."""
    own, seed, status = path / replica.name, str(replica.seed), _status(path / replica.name, unended)
    points = {axis_parameter(axis): str(text) for axis, text in replica.points.items()}
    kept = ("config.gin", "summary.json", "failure.json", "curve.png") if status in ENDED_BY else ()
    files = {**{own / name: "" for name in kept if (own / name).exists()}, **_videos(own)}
    title, parameters = f"{replica.cell} | {task} | seed {seed}", {**points, "seed": seed, "task": task}
    tags = {**tags, "kind": "cell", "cell": replica.cell, "seed": seed, "task": task}
    results, journal = partial(_results, own, path, status, digest=True), own / JOURNAL if history else None
    return TrackedRun(key, title, path, tags, parameters, status, own, journal, files, results=results)


def grid_tree(grid: Path, facts: records.GridRecord, unended: str, sent: Sent, skipped: SkippedRecords) -> TrackedRun:
    """A grid's own run, of which MLflow has `sent`, and a child for each cell that another grid has trained."""
    status = {"finished": "FINISHED", "incomplete": "FAILED", "interrupted": "KILLED"}.get(facts.get("state", ""))
    axes = "; ".join(f"{axis}: {', '.join(points)}" for axis, points in facts["axes"].items())
    packs = [grid / "packs" / name for name in facts["packs"]]
    ended = [path.parent for pack in packs for path in pack.glob(f"*/{ENDED_BY['FINISHED']}")]
    finished = sum(_status(cell) == "FINISHED" for cell in ended) + len(reused_cells(facts))
    # tags, because a grid may grow and parameters stay as they were
    tags = {"kind": "grid", "grid": facts["name"], "base": facts["base"], "caveat": facts.get("caveat", "")}
    tags |= {"axes": axes, "tasks": ", ".join(facts["tasks"]), "seeds": ", ".join(map(str, facts["seeds"]))}
    tags |= {"cells": str(facts["cells"]), "finished": str(finished), **note_tags(grid)}
    report = sorted(path for path in (grid / "report").rglob("*") if path.is_file() and not path.name.startswith("."))
    files = dict.fromkeys(grid.glob("grid.gin"), "")
    files |= {path: str(path.parent.relative_to(grid)) for path in report}
    children = list(_reused(grid, facts, sent, skipped))
    name = grid.resolve().name
    return TrackedRun("grid", name, grid, tags, status=status or unended, files=files, children=children)


def _reused(grid: Path, facts: records.GridRecord, sent: Sent, skipped: SkippedRecords) -> Iterator[TrackedRun]:
    """Cells that another grid has trained: their scores and files, without their history."""
    done = {key for key, run in sent.items() if run["status"] == "FINISHED"}
    reused = {cell: path for cell, path in reused_cells(facts).items() if f"reused cell-{cell}" not in done}
    for path, own, pack in read_reused(grid, reused, skipped):
        replica = Replica(path.name, own["seed"], own["label"], own["points"])
        tags = {**run_tags(pack), "reused_from": str(path)}
        yield _cell(path.parent, replica, f"reused {path.name}", own["task"], tags, "KILLED", history=False)


def run_tags(facts: records.RunRecord) -> dict[str, str]:
    """What a run's record says about it, as tags; `execution` is known only once it trains."""
    data = facts["data"]
    plain = ("task", "algorithm", "physics", "device", "device_name", "execution", "git_commit", "caveat")
    tags = {name: str(text) for name, text in facts.items() if name in plain}
    tags |= {"cell": facts["cell"]} if facts.get("cell") else {}
    tags |= {"data_source": data["source"], "data_digest": data["digest"], "is_d4rl": str(data["is_d4rl"])}
    tags |= {f"version.{name}": value for name, value in facts["versions"].items()}
    return tags | {f"variant.{name}": value for name, value in facts.get("variants", {}).items()}


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


def config_digest(text: str) -> str:
    """Digest of a gin text without seeds and labels: equal for the seeds of one configuration."""
    kept = re.sub(r"(?m)^Experiment\.(seeds|cell|replicas)\b.*\n(?:[ \t]+.*\n)*", "", text + "\n")
    statements = sorted(line for line in kept.splitlines() if line.strip() and not line.startswith("#"))
    return hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]


def _status(path: Path, unended: str = "") -> str:
    """MLflow's status of a replica."""
    return next((status for status, name in ENDED_BY.items() if os.path.exists(path / name)), unended)


def _videos(path: Path) -> dict[Path, str]:
    return dict.fromkeys(sorted((path / VIDEOS).glob("[!.]*")), VIDEOS)


def _results(path: Path, root: Path, status: str, digest: bool = False) -> Results:
    """A replica's final score by every selection rule, at the step of the rule's checkpoint; or why it failed."""
    tags, metrics = {}, list[records.JournalRecord]()
    if digest and (config := path / "config.gin").exists():
        tags["config_digest"] = config_digest(read_text(path_within(config, root)))
    if status == "FAILED":
        failure = records.read_record(path_within(path / "failure.json", root), records.FailureRecord)
        tags |= {"failure": f"{failure['kind']}: {failure['reason']}", "failure_step": str(failure.get("step"))}
    if status == "FINISHED":
        selection, at = _selection(path, root)
        for rule, row in selection.items():
            metrics.append({"step": row["step"] or 0, "time": at, "metrics": {f"score/{rule}": row["score_mean"]}})
    return metrics, tags


def _selection(path: Path, root: Path) -> tuple[Mapping[str, records.ChosenRecord], float]:
    """What a replica's summary says, and when it was written."""
    summary = path_within(path / "summary.json", root)
    return records.read_record(summary, records.SummaryRecord)["selection"], summary.stat().st_mtime


def _mean_scores(replicas: Sequence[Path], root: Path) -> Results:
    """The mean of the finished replicas' scores; of those that cannot be read it is said where they are sent."""
    found = []
    for path in replicas:
        with suppress(DqlabError):
            found += [_selection(path, root)] if _status(path) == "FINISHED" else []
    if not found:
        return [], {}
    means = {f"score/{rule}": sum(rows[rule]["score_mean"] for rows, _ in found) / len(found) for rule in found[0][0]}
    return [{"step": 0, "time": max(written for _, written in found), "metrics": means}], {}
