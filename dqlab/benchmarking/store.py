"""Benchmarks as MLflow runs: one a benchmark, under a parent for the session."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dqlab.benchmarking.record import Record, read_document, records_of
from dqlab.benchmarking.session import FOLDER
from dqlab.errors import BenchmarkError
from dqlab.printing import masked, one_line
from dqlab.tracking.mirror import mirror_environment
from dqlab.tracking.mlflow import LONGEST_VALUE, connect, experiment_id, tracking_uri
from dqlab.tracking.runs import all_runs
from dqlab.tracking.stores import store_path

EXPERIMENT = "benchmarks"
NAME, MACHINE, PARENT, WHEN = "benchmark", "machine", "mlflow.parentRunId", "when"


def the_uri(uri: str | None) -> str:
    """The URI that is named, or $MLFLOW_TRACKING_URI, or runs/mlflow.db in the current folder."""
    return uri or tracking_uri(FOLDER)


def send(path: Path, uri: str) -> None:
    """Send a session's JSON; what of it was sent before is left as it is.

    Raises:
        BenchmarkError: the file holds no benchmarks, or MLflow could not take them.
    """
    document = read_document(path)
    os.environ.update(mirror_environment())
    try:
        _send(document, path, uri)
    except Exception as error:  # whatever the client raises; the file is still there
        raise BenchmarkError(
            f"MLflow ({masked(uri)}) could not take the figures: {one_line(error, 200)}. They are in {path}; later: "
            f"dqlab bench send {path}"
        ) from error


def _send(document: dict[str, Any], path: Path, uri: str) -> None:
    client = connect(uri)
    experiment = experiment_id(client, EXPERIMENT, FOLDER, uri)
    records = records_of(document)
    known = _known(client, experiment, document["dqlab"]["session"])
    parent = known.get("") or _create(client, experiment, path.stem, _common_tags(records[0]), records[0])
    for record, item in zip(records, document["benchmarks"], strict=True):
        if record.name not in known:
            run = _create(client, experiment, record.name, _tags(record, parent), record)
            _fill(client, run, record)
            client.log_dict(run, {**document, "benchmarks": [item]}, "benchmark.json")
            client.set_terminated(run)
    client.log_artifact(parent, str(path))
    client.set_terminated(parent)


def _known(client: Any, experiment: str, session: str) -> dict[str, str]:
    """Runs of this session, by benchmark; the parent's name is empty. What was begun only is removed."""
    known = {}
    for run in all_runs(client, [experiment], f"tags.session = '{session}'"):
        name = run.data.tags.get(NAME, "")
        if name and run.info.status != "FINISHED":
            client.delete_run(run.info.run_id)
        else:
            known[name] = run.info.run_id
    return known


def _create(client: Any, experiment: str, name: str, tags: dict[str, str], record: Record) -> str:
    start = int(record.when.timestamp() * 1000)
    return str(client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id)


def _common_tags(record: Record) -> dict[str, str]:
    return {**record.facts, MACHINE: record.machine, WHEN: record.when.isoformat()}


def _tags(record: Record, parent: str) -> dict[str, str]:
    """Parameters are tags too: MLflow's lists are searched by tags."""
    threads = {"threads": f"{record.figures['threads']:.0f}"} if "threads" in record.figures else {}
    parameters = {name: _as_text(value) for name, value in record.parameters.items()}
    return {**parameters, **threads, **_common_tags(record), NAME: record.name, PARENT: parent}


def _fill(client: Any, run: str, record: Record) -> None:
    from mlflow.entities import Metric, Param

    at = int(record.when.timestamp() * 1000)
    metrics = [Metric(name, value, at, 0) for name, value in record.figures.items()]
    parameters = [Param(name, _as_text(value)) for name, value in record.parameters.items()]
    client.log_batch(run, metrics=metrics, params=parameters)


def _as_text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:LONGEST_VALUE]


def _from_text(text: str) -> Any:
    """What `_as_text` was given."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def load(uri: str) -> list[Record]:
    """Every benchmark that was recorded.

    Raises:
        BenchmarkError: MLflow does not answer, or no benchmarks were ever recorded there.
    """
    nothing = BenchmarkError(f"MLflow ({masked(uri)}) has no benchmarks yet. Record some: pytest benchmarks/ --mlflow")
    if (path := store_path(uri)) and not path.exists():
        raise nothing  # the client would make the file
    os.environ.update(mirror_environment())
    try:
        client = connect(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = all_runs(client, [experiment.experiment_id]) if experiment else []
    except Exception as error:
        raise BenchmarkError(f"MLflow ({masked(uri)}) cannot be read: {one_line(error, 200)}.") from error
    records = [_record(run) for run in runs if NAME in run.data.tags and run.info.status == "FINISHED"]
    if not records:
        raise nothing
    return records


def _record(run: Any) -> Record:
    tags: Mapping[str, str] = run.data.tags
    parameters = {name: _from_text(text) for name, text in run.data.params.items()}
    when = datetime.fromisoformat(tags[WHEN]).astimezone(timezone.utc)
    return Record(tags[NAME], parameters, run.data.metrics, tags[MACHINE], when, tags)
