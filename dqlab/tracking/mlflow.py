"""A run's folder as MLflow runs: one a replica under a parent, with parameters, metrics, tags and artifacts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.errors import RunError
from dqlab.files import own, write_text
from dqlab.printing import masked
from dqlab.records import ChosenRecord, FailureRecord, MemoryRecord, RunRecord, SummaryRecord, read
from dqlab.replica import replicas_of
from dqlab.tracking.damage import Leaving
from dqlab.tracking.deleted import Lasting
from dqlab.tracking.folders import facts_of, is_known, run_facts
from dqlab.tracking.journal_reader import chunks, metrics_of, new_records
from dqlab.tracking.mirror import Sent
from dqlab.tracking.runs import log_file
from dqlab.tracking.stores import make_store, store_path, store_uri

ENDED = ("finished", "failed")
BATCH = 900  # MLflow takes at most 1000 metrics a request
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages then show runs, not chats
LONGEST_VALUE = 480  # and 500 characters a parameter


def tracking_uri(run: Path) -> str:
    """$MLFLOW_TRACKING_URI, or an SQLite store beside the runs.

    Raises:
        RunError: the folder names another address. It may be a stranger's, and whoever answers there would get the
            records, and the user's name and password: so the user has to say it too.
    """
    beside = store_uri(run.resolve().parent / "mlflow.db")
    if said := os.environ.get("MLFLOW_TRACKING_URI"):
        return said
    recorded = (facts_of(run).get("mlflow_uri") if is_known(run) else "") or beside
    if recorded != beside:
        raise RunError(
            f"{run} was recorded at {masked(recorded)}, which nothing but the folder itself says. If that is where it "
            "belongs, set MLFLOW_TRACKING_URI to it (dqlab sync: or --to)."
        )
    return beside


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
    sent, facts, leaving = Sent(run, uri), run_facts(run), Leaving()
    client = Lasting(connect(uri), sent)
    _create(client, sent, run, facts, experiment)
    for replica in replicas_of(facts):
        with leaving.damaged():
            _send_metrics(client, sent, replica.name, own(run / replica.name / "metrics.jsonl", run))
    if facts["state"] in ENDED and not sent.state["finished"]:
        _finish(client, sent, run, facts, leaving)
    elif facts["state"] not in ENDED:
        _set_status(client, sent, "KILLED" if over else "RUNNING")
    leaving.tell()


def reopen(run: Path) -> None:
    """Let a run that had ended, and goes on, be sent to its end again."""
    path = run / "mlflow.json"
    known: Mapping[str, Any] = read(path, MemoryRecord) if path.exists() else {}
    if known.get("finished"):
        write_text(path, json.dumps({**known, "finished": False, "status": ""}, indent=1))


def connect(uri: str) -> Any:
    """MLflow's client for a tracking URI, without its chatter."""
    from mlflow.tracking import MlflowClient

    for name, level in {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    if (path := store_path(uri)) and not path.exists():
        make_store(path)
    return MlflowClient(tracking_uri=uri)


def _create(client: Any, sent: Sent, run: Path, facts: RunRecord, experiment: str) -> None:
    """The parent run and a child for each replica, with parameters and tags."""
    group = experiment_id(client, experiment, run, sent.state["uri"])
    common, shared = run_tags(facts), facts.get("parameters", {})
    if not sent.state["parent"]:
        sent.state["parent"] = _create_run(client, group, run.name, common, shared)
        sent.save()
    for replica in replicas_of(facts):
        if replica.name not in sent.state["children"]:
            tags = {**common, "mlflow.parentRunId": sent.state["parent"], "seed": str(replica.seed)}
            tags |= {"cell": replica.cell} if replica.cell else {}
            title = " ".join(part for part in (run.name, replica.cell, f"seed {replica.seed}") if part)
            parameters = {**shared, **replica.bindings}
            sent.state["children"][replica.name] = _create_run(client, group, title, tags, parameters)
            sent.save()


def experiment_id(client: Any, name: str, run: Path, uri: str) -> str:
    """The experiment's id, made where it does not exist; a local store keeps its artifacts beside the run's folder.

    Raises:
        RunError: it has been deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise RunError(
            f"MLflow's experiment '{name}' is deleted. Restore it, with MLFLOW_TRACKING_URI set to its store, by "
            f"`mlflow experiments restore -x {found.experiment_id}`; then: dqlab sync {run}."
        )
    if found is not None:
        return str(found.experiment_id)
    location = (run.resolve().parent / "mlartifacts").as_uri() if store_path(uri) else None
    return str(client.create_experiment(name, artifact_location=location, tags=KIND))


def _create_run(client: Any, group: str, name: str, tags: dict[str, str], parameters: Mapping[str, Any]) -> str:
    from mlflow.entities import Param

    run_id = str(client.create_run(group, tags={**tags, "mlflow.runName": name}, run_name=name).info.run_id)
    listed = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in parameters.items()]
    for chunk in chunks(listed, 90):
        client.log_batch(run_id, params=chunk)
    return run_id


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


def _send_metrics(client: Any, sent: Sent, name: str, path: Path) -> None:
    """The records of one replica's journal that have not been sent, in batches."""
    for chunk in chunks(new_records(path, sent.state["records"].get(name, 0)), 50):
        for part in chunks(metrics_of(chunk), BATCH):
            client.log_batch(sent.state["children"][name], metrics=part)
        sent.state["records"][name] = sent.state["records"].get(name, 0) + len(chunk)
        sent.save()


def _finish(client: Any, sent: Sent, run: Path, facts: RunRecord, leaving: Leaving) -> None:
    """Final scores by selection rule, artifacts, and the end of every run; a failed replica's is shown as failed."""
    found, parent = [], sent.state["parent"]
    for replica in replicas_of(facts):
        with leaving.damaged():
            found.append(_finish_replica(client, sent.state["children"][replica.name], own(run / replica.name, run)))
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
    failure, summary = own(replica / "failure.json", replica), own(replica / "summary.json", replica)
    if failure.exists():
        client.set_tag(child, "failure", read(failure, FailureRecord)["reason"])
    else:
        selection = read(summary, SummaryRecord)["selection"]
    for rule, row in selection.items():
        client.log_metric(child, f"score/{rule}", row["score_mean"])
    _log_artifacts(client, child, replica)
    client.set_terminated(child, "FINISHED" if selection else "FAILED")
    return selection


def _set_status(client: Any, sent: Sent, status: str) -> None:
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
