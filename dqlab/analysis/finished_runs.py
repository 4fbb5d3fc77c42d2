"""What is compared: finished runs with one seed each, wherever they were recorded."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.config.identity import Replica, describes_setting, replicas_of
from dqlab.errors import ConfigError, RunError, masked, nearest, one_line
from dqlab.files import read_text
from dqlab.tracking import folders
from dqlab.tracking.mlflow import client
from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.tree import run_tags
from dqlab.tracking.records import GridRecord, RunRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import FAILURE, RunFolder

RUN_ID = re.compile(r"[0-9a-f]{32}")
SUMMARY = "summary.json"
Row = dict[str, Any]
"""A finished run of one seed: name (of its folder or MLflow run), label (of the grid's setting), task, seed, caveat,
physics, digest (of its data), config (as text, without what makes no difference), made_with (versions, commit and
device), scores (D4RL-normalised, by selection rule)."""


@dataclass
class FoundRuns:
    """What there is at one place, or several: finished runs, how many are not, and why others cannot be read."""

    runs: list[Row] = field(default_factory=list)
    failed: int = 0
    unfinished: int = 0
    gone: list[str] = field(default_factory=list)  # folders of reused cells that are not there
    lost: folders.SkippedRecords = field(default_factory=folders.SkippedRecords)

    def add(self, other: FoundRuns) -> None:
        """What there is at another place; what is named twice counts once."""
        self.runs = list({run["name"]: run for run in [*self.runs, *other.runs]}.values())
        self.failed, self.unfinished = self.failed + other.failed, self.unfinished + other.unfinished
        self.lost.out = list(dict.fromkeys([*self.lost.out, *other.lost.out]))
        self.gone = list(dict.fromkeys([*self.gone, *other.gone]))


def find_runs(runs: Sequence[str], experiment: str | None, wanted: str, uri: str) -> FoundRuns:
    """The runs that are named: folders, MLflow's run ids, or an MLflow experiment; an error where none has finished."""
    if not runs and not experiment:
        raise ConfigError("dqlab compare wants folders of runs or grids, MLflow run ids, or --experiment NAME.")
    if wanted and not experiment:
        raise ConfigError("--filter belongs to --experiment.")
    found = FoundRuns()
    for name in runs:
        if Path(name).exists():
            found.add(read_folder(Path(name)))
        elif RUN_ID.fullmatch(name):
            with _asking(uri) as store:
                found.add(_replicas(store, _below(store, store.get_run(name))))
        else:
            raise RunError(f"There is no folder '{name}', and an MLflow run's id it is not (32 hexadecimal digits).")
    if experiment:
        with _asking(uri) as store:
            known = store.get_experiment_by_name(experiment)
            if known is None:
                advice = nearest(experiment, [item.name for item in store.search_experiments()])
                raise RunError(f"MLflow ({masked(uri)}) has no experiment '{experiment}'. {advice}")
            found.add(_replicas(store, client.all_runs(store, [known.experiment_id], wanted)))
    if not found.runs:
        where = f"the experiment '{experiment}'" if experiment else ", ".join(runs)
        filtered = f' with the filter "{wanted}"' if wanted else ""
        numbers = f"({found.failed} failed, {found.unfinished} not finished)"
        why = [*found.lost.out, *(f"{path} is gone." for path in found.gone)][:1]
        raise RunError(" ".join([f"Nothing to compare: no run of {where}{filtered} has finished {numbers}.", *why]))
    return found


def _read_config(path: Path) -> dict[str, str]:
    """What a run's config.gin binds."""
    from dqlab.config.gin_files import parse_bindings

    return comparable(parse_bindings(read_text(path), str(path)))


def comparable(given: Mapping[str, Any]) -> dict[str, str]:
    """A flat configuration as text, without what makes no difference to a run; what came later, where it is chosen."""
    return {name: str(value)[: client.LONGEST_VALUE] for name, value in given.items() if describes_setting(name, value)}


def read_folder(path: Path) -> FoundRuns:
    """All runs in a run's or a grid's folder; of those that are damaged it is said why."""
    folders.read_facts(path)
    found = FoundRuns()
    if not folders.is_grid(path):
        _read_run(path, found)
        return found
    facts, lost = read_record(path / folders.GRID, GridRecord), folders.SkippedRecords()
    for pack in (path / "packs" / name for name in facts["packs"]):
        with lost.damaged():
            if (pack / folders.RUN).exists():
                _read_run(pack, found)
    _read_reused(path, facts, found)
    if lost.out:
        found.lost.out += lost.out
    else:
        seen = len(found.runs) + found.failed + len(found.lost.out) + len(found.gone)
        found.unfinished = max(facts["cells"] - seen, found.unfinished)
    return found


def _read_reused(grid: Path, facts: GridRecord, found: FoundRuns) -> None:
    """Cells that other grids have trained, except those that are finished here too."""
    here = {Path(run["name"]).name for run in found.runs}
    elsewhere = {cell: path for cell, path in folders.reused_cells(facts).items() if f"cell-{cell}" not in here}
    there = {cell: path for cell, path in elsewhere.items() if os.path.exists(path / SUMMARY)}
    planned, facts_of = folders.planned_cells(grid) if there else {}, cache(lambda pack: RunFolder(pack).facts())
    for cell, path in there.items():
        with found.lost.damaged():
            if cell not in planned:
                raise RunError(f"{grid / folders.GRID}: cell {cell}, reused from {path}, is not in the grid's plan.")
            own = Replica(path.name, planned[cell]["seed"], planned[cell]["label"])
            found.runs.append(_compared(RunFolder(path.parent), own, facts_of(path.parent)))
    found.gone += [str(path) for cell, path in elsewhere.items() if cell not in there]


def _read_run(path: Path, found: FoundRuns) -> None:
    """The replicas of a run or of a pack."""
    folder = RunFolder(path)
    facts = folder.facts()
    for replica in replicas_of(facts):
        place = folder.replica(replica.name)
        if (place / FAILURE).exists():
            found.failed += 1
        elif not (place / SUMMARY).exists():
            found.unfinished += 1
        else:
            with found.lost.damaged():
                found.runs.append(_compared(folder, replica, facts))


def _compared(folder: RunFolder, replica: Replica, facts: RunRecord) -> Row:
    place = folder.replica(replica.name)
    own, summary = place / "config.gin", read_record(place / SUMMARY, SummaryRecord)
    scored = {name: summary[name] for name in ("task", "caveat", "physics")}
    tags = {**run_tags(facts), **scored, "seed": str(replica.seed)}
    tags |= {"cell": replica.cell} if replica.cell else {}
    scores = {rule: row["score_mean"] for rule, row in summary["selection"].items()}
    return _row(str(place.resolve()), tags, _read_config(own if own.exists() else folder.config), scores)


@contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """A client whose failures are told in one line."""
    if (path := client.store_path(uri)) and not path.exists():
        raise RunError(f"There is no MLflow store {masked(uri)}. Name one with --uri, or by MLFLOW_TRACKING_URI.")
    with client.client_environment():
        try:
            yield mlflow_client(uri)
        except RunError:
            raise
        except Exception as error:  # whatever the client raises
            silent = "Max retries exceeded" in str(error)
            why = "the server does not answer" if silent else one_line(error).rstrip(".")
            raise RunError(f"MLflow ({masked(uri)}): {why}.") from error


def _below(store: Any, run: Any) -> list[Any]:
    """The run, or, where it is a run's, a pack's or a grid's parent, those below it."""
    if "seed" in run.data.tags:
        return [run]
    children = client.all_runs(store, [run.info.experiment_id], f"tags.`{client.PARENT}` = '{run.info.run_id}'")
    return [found for child in children for found in _below(store, child)]


def _replicas(store: Any, runs: list[Any]) -> FoundRuns:
    """Of each replica's runs, and of the attempts at a grid's cell the last one; parents have no seed."""
    found, files, latest = FoundRuns(), dict[str, Mapping[str, str]](), dict[Any, Any]()
    replicas = (run for run in runs if "seed" in run.data.tags)
    for run in sorted(replicas, key=lambda run: run.info.start_time):
        tags = run.data.tags
        key = tags.get(client.KEY, "").rpartition(" ")[2]
        latest[(tags[client.OWNER], key) if key else run.info.run_id] = run
    for run in latest.values():
        if run.info.status == "FINISHED":
            digest = run.data.tags.get("config_digest")  # of a grid's cell, which has few parameters
            if digest and digest not in files:
                with tempfile.TemporaryDirectory() as folder:
                    files[digest] = _read_config(Path(store.download_artifacts(run.info.run_id, "config.gin", folder)))
            config = files[digest] if digest else comparable(run.data.params)
            metrics = run.data.metrics.items()
            scores = {name.removeprefix("score/"): value for name, value in metrics if name.startswith("score/")}
            found.runs.append(_row(run.info.run_id, run.data.tags, config, scores))
        elif run.info.status == "FAILED":
            found.failed += 1
        else:
            found.unfinished += 1
    return found


def _row(name: str, tags: Mapping[str, str], config: Mapping[str, str], scores: Mapping[str, float]) -> Row:
    """A run by its name and by what `run_tags` and its replica say of it."""
    row: Row = {"name": name, "label": tags.get("cell", ""), "config": config, "scores": scores}
    row |= {"task": tags["task"], "seed": int(tags["seed"]), "caveat": tags.get("caveat", "")}
    row |= {"physics": tags["physics"], "digest": tags["data_digest"]}
    versions = {key.removeprefix("version."): text for key, text in tags.items() if key.startswith("version.")}
    made_with = {**versions, "commit": tags.get("git_commit", ""), "device": tags.get("device_name", "")}
    return {**row, "made_with": made_with}
