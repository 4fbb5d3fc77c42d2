"""Finished runs in MLflow: of an experiment, or of one run and those below it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dqlab import configuration
from dqlab.comparison.finished_runs import FinishedRun, Found, comparable
from dqlab.errors import RunError, nearest
from dqlab.files import read_text
from dqlab.printing import masked, one_line
from dqlab.tracking.mirror import mirror_environment
from dqlab.tracking.mlflow import connect
from dqlab.tracking.runs import KEY, OWNER, PARENT, all_runs
from dqlab.tracking.stores import store_path

SCORE = "score/"
Configure = Callable[[str, str], Mapping[str, str]]


def read_experiment(uri: str, name: str, wanted: str) -> Found:
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


def read_run(uri: str, run_id: str) -> Found:
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
    os.environ.update(mirror_environment())
    try:
        yield connect(uri)
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
    """Parents have no seed."""
    return "seed" in run.data.tags


def _found(client: Any, runs: list[Any]) -> Found:
    replicas = _latest(sorted((run for run in runs if _is_replica(run)), key=lambda run: run.info.start_time))
    done = [run for run in replicas if run.info.status == "FINISHED"]
    failed = sum(run.info.status == "FAILED" for run in replicas)
    configure = _configurations(client, done)
    return Found(tuple(_finished(run, configure) for run in done), failed, len(replicas) - len(done) - failed)


def _latest(runs: list[Any]) -> list[Any]:
    """Of the attempts at one cell of a grid the last one; all other runs."""
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
            return comparable(configuration.flat(read_text(Path(path))))

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
