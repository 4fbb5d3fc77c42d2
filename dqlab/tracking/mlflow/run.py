"""A run's folder as MLflow runs: one a replica under a parent, with parameters, metrics, tags and artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.config.replica import replicas_of
from dqlab.files import path_within, write_text
from dqlab.tracking.folders import SkippedRecords, run_facts
from dqlab.tracking.mlflow.client import (
    PARENT,
    chunks_of,
    create_run,
    experiment_id,
    log_all,
    log_file,
    metrics_of,
    mlflow_client,
    new_records,
    run_tags,
)
from dqlab.tracking.mlflow.memory import DeletedRunGuard, RunSyncState
from dqlab.tracking.records import ChosenRecord, FailureRecord, MemoryRecord, RunRecord, SummaryRecord, read_record

ENDED = ("finished", "failed")


def send_run(run: Path, uri: str, experiment: str, over: bool = False) -> None:
    """Send whatever of a run's folder has not been sent; does nothing twice, may be called at any time.

    Args:
        run: the run's folder.
        uri: MLflow's tracking URI.
        experiment: MLflow's experiment.
        over: the training process has ended; an unfinished run is then shown as killed, until it is resumed.

    Raises:
        LeftOutError: something in the folder is damaged; all else was sent.
        Exception: whatever MLflow's client raises; what was sent before is remembered.
    """
    sent, facts, leaving = RunSyncState(run, uri), run_facts(run), SkippedRecords()
    client = DeletedRunGuard(mlflow_client(uri), sent)
    _create(client, sent, run, facts, experiment)
    for replica in replicas_of(facts):
        with leaving.damaged():
            _send_metrics(client, sent, replica.name, path_within(run / replica.name / "metrics.jsonl", run))
    if facts["state"] in ENDED and not sent.state["finished"]:
        _finish(client, sent, run, facts, leaving)
    elif facts["state"] not in ENDED:
        _set_status(client, sent, "KILLED" if over else "RUNNING")
    leaving.tell()


def reopen_run(run: Path) -> None:
    """Let a run that had ended, and goes on, be sent to its end again."""
    path = run / "mlflow.json"
    known: Mapping[str, Any] = read_record(path, MemoryRecord) if path.exists() else {}
    if known.get("finished"):
        write_text(path, json.dumps({**known, "finished": False, "status": ""}, indent=1))


def _create(client: Any, sent: RunSyncState, run: Path, facts: RunRecord, experiment: str) -> None:
    """The parent run and a child for each replica, with parameters and tags."""
    group = experiment_id(client, experiment, run, sent.state["uri"])
    common, shared = run_tags(facts), facts.get("parameters", {})
    if not sent.state["parent"]:
        sent.state["parent"] = _create_run(client, group, run.name, common, shared)
        sent.save()
    for replica in replicas_of(facts):
        if replica.name not in sent.state["children"]:
            tags = {**common, PARENT: sent.state["parent"], "seed": str(replica.seed)}
            tags |= {"cell": replica.cell} if replica.cell else {}
            title = " ".join(part for part in (run.name, replica.cell, f"seed {replica.seed}") if part)
            parameters = {**shared, **replica.bindings}
            sent.state["children"][replica.name] = _create_run(client, group, title, tags, parameters)
            sent.save()


def _create_run(client: Any, group: str, name: str, tags: dict[str, str], parameters: Mapping[str, Any]) -> str:
    run_id = create_run(client, group, name, tags)
    log_all(client, run_id, [], parameters, {})
    return run_id


def _send_metrics(client: Any, sent: RunSyncState, name: str, path: Path) -> None:
    """The records of one replica's journal that have not been sent, in batches."""
    for chunk in chunks_of(new_records(path, sent.state["records"].get(name, 0)), 50):
        log_all(client, sent.state["children"][name], metrics_of(chunk), {}, {})
        sent.state["records"][name] = sent.state["records"].get(name, 0) + len(chunk)
        sent.save()


def _finish(client: Any, sent: RunSyncState, run: Path, facts: RunRecord, leaving: SkippedRecords) -> None:
    """Final scores by selection rule, artifacts, and the end of every run; a failed replica's is shown as failed."""
    found, parent = [], sent.state["parent"]
    for replica in replicas_of(facts):
        with leaving.damaged():
            found.append(
                _finish_replica(client, sent.state["children"][replica.name], path_within(run / replica.name, run))
            )
    selections = [selection for selection in found if selection]
    for rule in selections[0] if selections else ():
        scores = [selection[rule]["score_mean"] for selection in selections]
        client.log_metric(parent, f"score/{rule}", sum(scores) / len(scores))
    with leaving.damaged():
        log_file(client, parent, run / "config.gin", run)
    client.set_terminated(parent, facts["state"].upper())
    if not leaving.out:
        sent.state["finished"] = True
        sent.save()


def _finish_replica(client: Any, child: str, replica: Path) -> Mapping[str, ChosenRecord]:
    """A replica's artifacts, and its scores or why it failed; returns its selection, nothing where it failed."""
    selection: Mapping[str, ChosenRecord] = {}
    failure, summary = path_within(replica / "failure.json", replica), path_within(replica / "summary.json", replica)
    if failure.exists():
        client.set_tag(child, "failure", read_record(failure, FailureRecord)["reason"])
    else:
        selection = read_record(summary, SummaryRecord)["selection"]
    for rule, row in selection.items():
        client.log_metric(child, f"score/{rule}", row["score_mean"])
    _log_artifacts(client, child, replica)
    client.set_terminated(child, "FINISHED" if selection else "FAILED")
    return selection


def _set_status(client: Any, sent: RunSyncState, status: str) -> None:
    """Show every run of the pack with this status, if it is not shown already."""
    if sent.state["status"] != status:
        for run_id in (sent.state["parent"], *sent.state["children"].values()):
            client.update_run(run_id, status=status)
        sent.state["status"] = status
        sent.save()


def _log_artifacts(client: Any, run_id: str, replica: Path) -> None:
    for path in sorted(replica.iterdir()):
        if path.is_file() and path.name != "metrics.jsonl":
            log_file(client, run_id, path, replica)
    for path in sorted((replica / "checkpoints").glob("*.safetensors")):
        log_file(client, run_id, path, replica, "checkpoints")
