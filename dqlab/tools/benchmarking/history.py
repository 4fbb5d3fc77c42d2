"""Benchmarks over time: where they come from, and which of them got worse."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dqlab.errors import BenchmarkError, masked, one_line
from dqlab.runs.profile import page
from dqlab.tools.benchmarking.plugin import FOLDER
from dqlab.tools.benchmarking.record import BenchmarkRecord, group_by, read_document, records_of
from dqlab.tracking.mlflow.client import (
    LONGEST_VALUE,
    PARENT,
    all_runs,
    create_run,
    experiment_id,
    log_all,
    mirror_environment,
    mlflow_client,
    store_path,
    tracking_uri,
)

TOLERANCE = 0.10
"""A ratio may fall by this much below the best before it is called worse: machines are noisy."""


@dataclass(frozen=True)
class History:
    """One benchmark on one kind of machine, measured once or more; the newest last."""

    records: Sequence[BenchmarkRecord]

    @property
    def latest(self) -> BenchmarkRecord:
        """The newest."""
        return self.records[-1]

    @property
    def best_before(self) -> float | None:
        """The best ratio before the latest; None if there is none."""
        return max((record.ratio for record in self.records[:-1] if record.ratio is not None), default=None)

    @property
    def loss(self) -> float:
        """How far the latest ratio lies below the best earlier one, as a part of that; negative if it is better.

        Ratios to a baseline measured in alternation are compared, not times: a busy machine slows both.
        """
        best, now = self.best_before, self.latest.ratio
        return 0.0 if best is None or now is None else 1 - now / best

    @property
    def worse(self) -> bool:
        """Whether that is more than `TOLERANCE`."""
        return self.loss > TOLERANCE


def read_histories(files: Sequence[Path], uri: str | None, machine: str) -> dict[str, list[History]]:
    """Histories by machine kind, from JSON files, or from MLflow if none are named.

    Args:
        files: written by `pytest --benchmark-json` or `--mlflow`.
        uri: MLflow's; None for the default.
        machine: `this` kind, `all`, or the name of one.

    Raises:
        BenchmarkError: nothing to be read, or nothing of that machine.
    """
    records = _from_files(files) if files else _from_mlflow(uri)
    by_machine = {
        kind: group_histories(found) for kind, found in group_by(records, lambda record: record.machine).items()
    }
    return by_machine if machine == "all" else _only(by_machine, machine)


def _from_files(files: Sequence[Path]) -> list[BenchmarkRecord]:
    return [record for path in files for record in records_of(read_document(path))]


def _from_mlflow(uri: str | None) -> list[BenchmarkRecord]:
    return load_benchmarks(tracking_uri_or_default(uri))


def _only(by_machine: dict[str, list[History]], machine: str) -> dict[str, list[History]]:
    from dqlab.tools.benchmarking.record import machine_kind

    wanted = machine_kind() if machine == "this" else machine
    if wanted not in by_machine:
        known = "; ".join(sorted(by_machine)) or "none"
        raise BenchmarkError(f"No benchmarks of this kind of machine: {wanted}. Known: {known} (--machine all).")
    return {wanted: by_machine[wanted]}


def group_histories(records: Sequence[BenchmarkRecord]) -> list[History]:
    """One a benchmark, by part and name; one that changed its parameters or threads is another one."""
    by_benchmark = group_by(records, _identity)
    found = [History(sorted(each, key=lambda record: record.when)) for each in by_benchmark.values()]
    return sorted(found, key=lambda history: (history.latest.part, history.latest.name))


def _identity(record: BenchmarkRecord) -> Hashable:
    parameters = tuple(sorted((name, str(value)) for name, value in record.parameters.items()))
    return record.name, parameters, record.figures.get("threads")


SHOWN = 10


def compare_histories(by_machine: Mapping[str, Sequence[History]]) -> int:
    """Print the histories of each kind of machine; returns how many benchmarks got worse."""
    for machine, histories in by_machine.items():
        print(f"\n{machine}")
        for history in histories:
            print("\n".join(["", *_lines(history)]))
    everything = [history for histories in by_machine.values() for history in histories]
    worse = sum(history.worse for history in everything)
    print(f"\n{worse} of {len(everything)} benchmarks got worse by more than {TOLERANCE:.0%}.")
    return worse


def _lines(history: History) -> Iterable[str]:
    """A benchmark's name and parameters, and its last measurements."""
    latest = history.latest
    yield f"{latest.name}  {page.format_parameters(latest.parameters)}".rstrip()
    hidden = len(history.records) - SHOWN
    if hidden > 0:
        yield f"  ({hidden} earlier)"
    table = page.align_columns([_row(record) for record in history.records[-SHOWN:]])
    yield from (f"  {line}" for line in table[:-1])
    yield f"  {table[-1]}{_verdict(history)}"


def _row(record: BenchmarkRecord) -> list[str]:
    when = record.when.astimezone().strftime("%Y-%m-%d %H:%M")
    return [when, record.commit, page.format_seconds(record.median), page.format_times(record.ratio)]


def _verdict(history: History) -> str:
    if not history.worse or history.best_before is None:
        return ""
    return f"  WORSE: {history.loss:.0%} below the best, {page.format_times(history.best_before)}"


EXPERIMENT = "benchmarks"
NAME, MACHINE, WHEN = "benchmark", "machine", "when"


def tracking_uri_or_default(uri: str | None) -> str:
    """The URI that is named, or $MLFLOW_TRACKING_URI, or runs/mlflow.db in the current folder."""
    return uri or tracking_uri(FOLDER)


def send_benchmarks(path: Path, uri: str) -> None:
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
    client = mlflow_client(uri)
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


def _create(client: Any, experiment: str, name: str, tags: dict[str, str], record: BenchmarkRecord) -> str:
    return create_run(client, experiment, name, tags, record.when.timestamp())


def _common_tags(record: BenchmarkRecord) -> dict[str, str]:
    return {**record.facts, MACHINE: record.machine, WHEN: record.when.isoformat()}


def _tags(record: BenchmarkRecord, parent: str) -> dict[str, str]:
    """Parameters are tags too: MLflow's lists are searched by tags."""
    threads = {"threads": f"{record.figures['threads']:.0f}"} if "threads" in record.figures else {}
    parameters = {name: _as_text(value) for name, value in record.parameters.items()}
    return {**parameters, **threads, **_common_tags(record), NAME: record.name, PARENT: parent}


def _fill(client: Any, run: str, record: BenchmarkRecord) -> None:
    from mlflow.entities import Metric

    at = int(record.when.timestamp() * 1000)
    metrics = [Metric(name, value, at, 0) for name, value in record.figures.items()]
    log_all(client, run, metrics, {name: _as_text(value) for name, value in record.parameters.items()}, {})


def _as_text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:LONGEST_VALUE]


def _from_text(text: str) -> Any:
    """What `_as_text` was given."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_benchmarks(uri: str) -> list[BenchmarkRecord]:
    """Every benchmark that was recorded.

    Raises:
        BenchmarkError: MLflow does not answer, or no benchmarks were ever recorded there.
    """
    nothing = BenchmarkError(f"MLflow ({masked(uri)}) has no benchmarks yet. Record some: pytest benchmarks/ --mlflow")
    if (path := store_path(uri)) and not path.exists():
        raise nothing  # the client would make the file
    os.environ.update(mirror_environment())
    try:
        client = mlflow_client(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = all_runs(client, [experiment.experiment_id]) if experiment else []
    except Exception as error:
        raise BenchmarkError(f"MLflow ({masked(uri)}) cannot be read: {one_line(error, 200)}.") from error
    records = [_record(run) for run in runs if NAME in run.data.tags and run.info.status == "FINISHED"]
    if not records:
        raise nothing
    return records


def _record(run: Any) -> BenchmarkRecord:
    tags: Mapping[str, str] = run.data.tags
    parameters = {name: _from_text(text) for name, text in run.data.params.items()}
    when = datetime.fromisoformat(tags[WHEN]).astimezone(timezone.utc)
    return BenchmarkRecord(tags[NAME], parameters, run.data.metrics, tags[MACHINE], when, tags)
