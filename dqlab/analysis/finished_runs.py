"""What is compared: finished runs with one seed each, wherever they were recorded."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.config.identity import describes_setting
from dqlab.config.replica import Replica, replicas_of
from dqlab.errors import ConfigError, RunError, masked, nearest, one_line
from dqlab.files import read_text
from dqlab.tracking.folders import (
    GRID,
    RUN,
    SkippedRecords,
    grid_facts,
    is_grid,
    planned_cells,
    reused_cells,
    run_facts,
)
from dqlab.tracking.mlflow.client import (
    KEY,
    LONGEST_VALUE,
    OWNER,
    PARENT,
    all_runs,
    client_environment,
    mlflow_client,
    store_path,
)
from dqlab.tracking.records import GridRecord, RunRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import FAILURE, RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """One finished run of one seed.

    Attributes:
        name: where it is recorded: a folder or an MLflow run's id.
        label: of the grid's setting that it belongs to, or empty.
        task, seed, caveat, physics: of the run.
        digest: of its data.
        config: its configuration as text, without what makes no difference.
        made_with: versions, commit and device: name -> text.
        scores: selection rule -> D4RL-normalised score.
    """

    name: str
    label: str
    task: str
    seed: int
    caveat: str
    physics: str
    digest: str
    config: Mapping[str, str]
    made_with: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class FoundRuns:
    """What there is at one place: finished runs, how many have failed or not finished, and why others cannot be read.

    Attributes:
        runs: finished ones.
        failed, unfinished: numbers of others.
        damaged: a sentence or two on each run, or pack, whose records are damaged.
        gone: folders of reused cells that are not there any more.
    """

    runs: tuple[FinishedRun, ...] = ()
    failed: int = 0
    unfinished: int = 0
    damaged: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @staticmethod
    def all_of(parts: Iterable[FoundRuns]) -> FoundRuns:
        """The runs of several places; a run that is named twice counts once."""
        parts = list(parts)
        runs = {run.name: run for part in parts for run in part.runs}
        failed, unfinished = sum(part.failed for part in parts), sum(part.unfinished for part in parts)
        damaged = dict.fromkeys(text for part in parts for text in part.damaged)
        gone = dict.fromkeys(path for part in parts for path in part.gone)
        return FoundRuns(tuple(runs.values()), failed, unfinished, tuple(damaged), tuple(gone))


RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_runs(runs: Sequence[str], experiment: str | None, wanted: str, uri: str) -> FoundRuns:
    """The runs that are named: folders, MLflow's run ids, or an MLflow experiment.

    Raises:
        ConfigError: nothing is named, or a filter without an experiment.
        RunError: something that is named is not there, or nothing has finished.
    """
    if not runs and not experiment:
        raise ConfigError("dqlab compare wants folders of runs or grids, MLflow run ids, or --experiment NAME.")
    if wanted and not experiment:
        raise ConfigError("--filter belongs to --experiment.")
    parts = [_find(name, uri) for name in runs]
    found = FoundRuns.all_of([*parts, *([read_experiment(uri, experiment, wanted)] if experiment else [])])
    if not found.runs:
        where = f"the experiment '{experiment}'" if experiment else ", ".join(runs)
        filtered = f' with the filter "{wanted}"' if wanted else ""
        raise RunError(
            f"Nothing to compare: no run of {where}{filtered} has finished "
            f"({found.failed} failed, {found.unfinished} not finished)." + "".join(f" {text}" for text in _lost(found))
        )
    return found


def _lost(found: FoundRuns) -> list[str]:
    """Why the first of those is left out that are damaged or gone."""
    return [*found.damaged, *(f"{path} is gone." for path in found.gone)][:1]


def _find(name: str, uri: str) -> FoundRuns:
    if Path(name).exists():
        return read_folder(Path(name))
    if RUN_ID.fullmatch(name):
        return read_run(uri, name)
    raise RunError(f"There is no folder '{name}', and an MLflow run's id it is not (32 hexadecimal digits).")


def _bindings(config: Path) -> dict[str, Any]:
    """What a run's config.gin binds."""
    from dqlab.config.gin_syntax import parse_bindings

    return parse_bindings(read_text(config), str(config))


def comparable(config: Mapping[str, Any]) -> dict[str, str]:
    """A flat configuration as text, without what makes no difference to a run; what came later, where it is chosen."""
    return {name: str(value)[:LONGEST_VALUE] for name, value in config.items() if describes_setting(name, value)}


SUMMARY = "summary.json"


def read_folder(path: Path) -> FoundRuns:
    """All runs in a folder; of those that are damaged it is said why.

    Raises:
        RunError: it is the folder of neither a run nor a grid, or the file that says what it is is damaged.
    """
    return _read_grid(path, grid_facts(path)) if is_grid(path) else _read_run(path, run_facts(path))


def _read_grid(path: Path, facts: GridRecord) -> FoundRuns:
    packs, number = [path / "packs" / name for name in facts["packs"]], facts["cells"]
    leaving, parts = SkippedRecords(), []
    for pack in packs:
        with leaving.damaged():
            parts += [_read_run(pack, run_facts(pack))] if (pack / RUN).exists() else []
    here = FoundRuns.all_of(parts)
    found = FoundRuns.all_of([here, _read_reused(path, facts, {Path(run.name).name for run in here.runs})])
    seen = len(found.runs) + found.failed + len(found.damaged) + len(found.gone)
    unfinished = max(number - seen, found.unfinished) if not leaving.out else found.unfinished
    return replace(found, unfinished=unfinished, damaged=(*found.damaged, *leaving.out))


def _read_reused(grid: Path, facts: GridRecord, here: Iterable[str]) -> FoundRuns:
    """Cells that other grids have trained, except those that are finished here too."""
    elsewhere = {cell: path for cell, path in reused_cells(facts).items() if f"cell-{cell}" not in here}
    there = {cell: path for cell, path in elsewhere.items() if os.path.exists(path / SUMMARY)}
    planned, pack_facts = planned_cells(grid) if there else {}, cache(run_facts)
    leaving, runs = SkippedRecords(), []
    for cell, path in there.items():
        with leaving.damaged():
            if cell not in planned:
                raise RunError(f"{grid / GRID}: cell {cell}, reused from {path}, is not in the grid's plan.")
            own = Replica(path.name, planned[cell]["seed"], planned[cell]["label"])
            runs.append(_compared(RunFolder(path.parent), own, pack_facts(path.parent)))
    gone = (str(path) for cell, path in elsewhere.items() if cell not in there)
    return FoundRuns(tuple(runs), damaged=tuple(leaving.out), gone=tuple(gone))


def _read_run(path: Path, facts: RunRecord) -> FoundRuns:
    """The replicas of a run or of a pack."""
    folder = RunFolder(path)
    replicas = replicas_of(facts)
    failed = [replica for replica in replicas if (folder.replica(replica.name) / FAILURE).exists()]
    ended = [replica for replica in replicas if (folder.replica(replica.name) / SUMMARY).exists()]
    done = [replica for replica in ended if replica not in failed]
    leaving, runs = SkippedRecords(), []
    for replica in done:
        with leaving.damaged():
            runs.append(_compared(folder, replica, facts))
    return FoundRuns(tuple(runs), len(failed), len(replicas) - len(done) - len(failed), tuple(leaving.out))


def _compared(folder: RunFolder, replica: Replica, facts: RunRecord) -> FinishedRun:
    place = folder.replica(replica.name)
    own, summary = place / "config.gin", read_record(place / SUMMARY, SummaryRecord)
    written = own if own.exists() else folder.config
    config = _bindings(written)
    made_with = {**facts["versions"], "commit": facts["git_commit"], "device": facts["device_name"]}
    return FinishedRun(
        name=str(place.resolve()),
        label=replica.cell or str(facts.get("cell") or ""),
        task=summary["task"],
        seed=replica.seed,
        caveat=summary["caveat"],
        physics=summary["physics"],
        digest=facts["data"]["digest"],
        config=comparable(config),
        made_with=made_with,
        scores={rule: row["score_mean"] for rule, row in summary["selection"].items()},
    )


SCORE = "score/"


def read_experiment(uri: str, name: str, wanted: str) -> FoundRuns:
    """The runs of an experiment that an MLflow filter lets pass.

    Raises:
        RunError: there is no such experiment, the filter cannot be read, or MLflow does not answer.
    """
    with _asking(uri) as client:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            known = [item.name for item in client.search_experiments()]
            raise RunError(f"MLflow ({masked(uri)}) has no experiment '{name}'. {nearest(name, known)}")
        return _found(client, all_runs(client, [experiment.experiment_id], wanted))


def read_run(uri: str, run_id: str) -> FoundRuns:
    """A run, or, where it is a run's, a pack's or a grid's parent, those below it.

    Raises:
        RunError: there is no such run, or MLflow does not answer.
    """
    with _asking(uri) as client:
        return _found(client, _below(client, client.get_run(run_id)))


@contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """A client whose failures are told in one line."""
    if (path := store_path(uri)) and not path.exists():
        raise RunError(f"There is no MLflow store {masked(uri)}. Name one with --uri, or by MLFLOW_TRACKING_URI.")
    with client_environment():
        try:
            yield mlflow_client(uri)
        except RunError:
            raise
        except Exception as error:  # whatever the client raises
            raise RunError(f"MLflow ({masked(uri)}): {_in_short(error)}.") from error


def _in_short(error: Exception) -> str:
    return "the server does not answer" if "Max retries exceeded" in str(error) else one_line(error).rstrip(".")


def _below(client: Any, run: Any) -> list[Any]:
    if _is_replica(run):
        return [run]
    children = all_runs(client, [run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'")
    return [found for child in children for found in _below(client, child)]


def _is_replica(run: Any) -> bool:
    """Whether it is one replica's run: parents have no seed."""
    return "seed" in run.data.tags


def _found(client: Any, runs: list[Any]) -> FoundRuns:
    replicas = _latest(sorted((run for run in runs if _is_replica(run)), key=lambda run: run.info.start_time))
    done = [run for run in replicas if run.info.status == "FINISHED"]
    failed = sum(run.info.status == "FAILED" for run in replicas)
    configure = _configurations(client, done)
    return FoundRuns(tuple(_finished(run, configure) for run in done), failed, len(replicas) - len(done) - failed)


def _latest(runs: list[Any]) -> list[Any]:
    """The last of the attempts at each cell of a grid, and all runs that are no cells."""
    tags = [run.data.tags for run in runs]
    cells = [(tag[OWNER], tag[KEY].rpartition(" ")[2]) if KEY in tag else id(tag) for tag in tags]
    return list(dict(zip(cells, runs, strict=True)).values())


def _configurations(client: Any, runs: list[Any]) -> Callable[[Any], Mapping[str, str]]:
    """A run's configuration: its parameters, or of a grid's cell, which has few of them, its file config.gin.

    The file is fetched once for all cells whose configurations have the same digest.
    """
    first = {run.data.tags["config_digest"]: run for run in runs if "config_digest" in run.data.tags}

    @cache
    def from_file(digest: str) -> Mapping[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(first[digest].info.run_id, "config.gin", folder)
            return comparable(_bindings(Path(path)))

    def configure(run: Any) -> Mapping[str, str]:
        digest = run.data.tags.get("config_digest")
        return from_file(digest) if digest else comparable(run.data.params)

    return configure


def _finished(run: Any, configure: Callable[[Any], Mapping[str, str]]) -> FinishedRun:
    tags, metrics = run.data.tags, run.data.metrics
    versions = {name.removeprefix("version."): text for name, text in tags.items() if name.startswith("version.")}
    return FinishedRun(
        name=run.info.run_id,
        label=tags.get("cell", ""),
        task=tags["task"],
        seed=int(tags["seed"]),
        caveat=tags.get("caveat", ""),
        physics=tags["physics"],
        digest=tags["data_digest"],
        config=configure(run),
        made_with={**versions, "commit": tags.get("git_commit", ""), "device": tags.get("device_name", "")},
        scores={name.removeprefix(SCORE): value for name, value in metrics.items() if name.startswith(SCORE)},
    )
