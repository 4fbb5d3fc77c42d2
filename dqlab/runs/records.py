"""What a run writes of itself: how it came about (run.json, config.gin), and what each replica ended with."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings, rebind_text
from dqlab.config.gin_state import bound_value
from dqlab.config.identity import SOURCES, Replica, changed_results
from dqlab.config.plugins import plugin_sources
from dqlab.data.sources import absolute_source
from dqlab.data.transitions import Transitions
from dqlab.errors import PACKAGE, RunError, masked
from dqlab.files import read_text, write_text
from dqlab.machine import attempt_command, package_version
from dqlab.printing import Console
from dqlab.runs.experiment import Experiment, Tracking
from dqlab.tracking.display import draw_score_curve, summary_table
from dqlab.tracking.mlflow.client import beside_uri, store_path, tracking_uri
from dqlab.tracking.run_folder import RunFolder
from dqlab.training.model_selection import ReplicaStates, official_result, select_checkpoints

if TYPE_CHECKING:
    from dqlab.tracking.records import EvaluationRecord, FailedRecord


def write_record(
    experiment: Experiment, tracking: Tracking, folder: RunFolder, data: Transitions, loaded: gin_files.LoadedConfig
) -> dict[str, Any]:
    """Write config.gin and run.json, after checking that a resumed run is the same; returns what run.json says."""
    sources = bound_value(SOURCES) or ()
    sources = (sources,) if isinstance(sources, str) else sources
    absolute = {SOURCES: tuple(map(absolute_source, sources))} if sources else {}  # as it does from any folder
    text = rebind_text(gin_files.operative_text(loaded), absolute)
    parameters, digest = parse_bindings(text), data.provenance.digest
    if folder.config.exists():  # what is resumed must be the same experiment on the same data
        found = changed_results(parse_bindings(read_text(folder.config)), parameters)
        before = folder.facts()["data"]["digest"]
        found += [f"dataset: SHA-256 {before} before, {digest} now"] if before != digest else []
        if found:
            raise RunError(f"{folder.path} cannot be resumed with another configuration: {'; '.join(found)}.")
    known = experiment_facts(experiment, data, loaded)
    known |= {"parameters": parameters, "mlflow_experiment": tracking.experiment or experiment.task}
    if tracking.mlflow:
        known |= {"mlflow_uri": masked(tracking_uri(folder.path))}
    folder.write_facts(**known, state="running", reason="")
    write_text(folder.config, text)
    return known


def write_own_configs(experiment: Experiment, folder: RunFolder, execution: str) -> None:
    """Configurations that repeat one replica of a run alone, to the last bit where the device is the same."""
    text = read_text(folder.config)
    for replica in experiment.resolved_replicas:  # by `execution`: `auto` might choose another one for a single replica
        own = {"Experiment.seeds": (replica.seed,), "Training.execution": execution, **replica.bindings}
        if experiment.replicas:
            own |= {"Experiment.replicas": {}, "Experiment.cell": replica.cell}
        write_text(folder.replica(replica.name) / "config.gin", rebind_text(text, own))


def experiment_facts(experiment: Experiment, data: Transitions, loaded: gin_files.LoadedConfig) -> dict[str, Any]:
    """What the record of a run says about it: tags, not parameters."""
    provenance, task, device = data.provenance, experiment.resolved_task, experiment.resolved_device
    score = None if task.measures_success else task.score(provenance.return_mean)
    name, plan = platform.processor() or platform.machine(), experiment.plan
    schedule = experiment.resolved_algorithm.lr_schedule
    packages = ("dqlab", "torch", "numpy", "gin-config", "gymnasium", "mujoco", "mlflow", task.benchmark)
    return {
        **{name: getattr(experiment, name) for name in ("task", "algorithm", "cell", "env_backend", "precision")},
        "seeds": sorted({replica.seed for replica in experiment.resolved_replicas}),
        "replicas": {replica.name: replica.as_dict() for replica in experiment.resolved_replicas},
        "physics": experiment.stepped_by,
        "device": str(device),
        "threads": experiment.resolved_threads,
        "device_name": name if device.type == "cpu" else torch.cuda.get_device_name(device),
        "variants": {"lr_schedule": schedule, "offline_rule": plan.offline_rule, "early_stop": plan.early_stop},
        "data": {**asdict(provenance), "score_mean": score},
        "caveat": "; ".join(filter(None, (provenance.caveat, task.caveat, task.condition))),
        "scored": task.scored,
        "versions": {name: package_version(name) for name in packages if name} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "gin_files": [str(path) for path in loaded.files],
        "plugins": loaded.imports,
        "plugin_sources": plugin_sources(),
    }


def _git_commit() -> str:
    """The commit of the code that runs, with '+changes' if it is not exactly that; empty outside a checkout."""
    questions = ("ls-files __init__.py", "rev-parse HEAD", "status --porcelain -- .")
    asked = [["git", "-C", str(PACKAGE), *question.split()] for question in questions]
    known, commit, changes = (attempt_command(command, timeout=30.0) for command in asked)
    if not known.output or commit.trouble or changes.trouble:
        return ""
    return commit.output.strip() + ("+changes" if changes.output else "")


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: summaries or failures by replica, run.json, whether MLflow has all (None: unasked), a profile."""

    folder: RunFolder
    summaries: dict[str, dict[str, Any]]
    failures: dict[str, FailedRecord]
    facts: dict[str, Any]
    sent: bool | None
    profile: Sequence[str] = ()

    def check_complete(self) -> None:
        """Raise a RunError if replicas have failed, which names them, and the first one's reason."""
        if titles := [replica.title for replica in self.folder.replicas() if replica.name in self.failures]:
            first, several = next(iter(self.failures.values()))["reason"], len(titles) + len(self.summaries)
            raise RunError(f"{len(titles)} of {several} replicas failed ({'; '.join(titles)}). {first}")


def write_replica_results(
    experiment: Experiment, folder: RunFolder, replica: Replica, states: ReplicaStates, known: dict[str, Any]
) -> dict[str, Any]:
    """One replica's summary, curve and result files, by its evaluations, one of them at least with a score."""
    evaluations = states.evaluations[replica.name]
    chosen = select_checkpoints(evaluations, experiment.plan.offline_rule, experiment.plan.top_k)
    by_step: dict[int | None, EvaluationRecord] = {each["step"]: each for each in evaluations}
    summary = {
        "seed": replica.seed,
        "cell": replica.cell,
        "points": dict(replica.points),
        "steps": evaluations[-1]["step"],
        **{name: known[name] for name in ("task", "algorithm", "caveat", "scored", "physics")},
        "selection": chosen,
        "untrained": by_step.get(0),
        "data_return_mean": known["data"]["return_mean"],
        "evaluations": evaluations,
        "failed_evaluations": states.failed_evaluations[replica.name],
    }
    own = folder.replica(replica.name)
    rules = {"best_online": "online", "offline": "offline"} if known["scored"] else {}  # the official code has scores
    for rule, name in rules.items():
        write_text(own / f"best_score_{name}.txt", official_result(by_step[chosen[rule]["step"]], name))
    title = " | ".join(filter(None, (known["task"], known["algorithm"], replica.title, known["caveat"])))
    draw_score_curve(evaluations, chosen, title, own / "curve.png", known["scored"])
    write_text(own / "summary.json", json.dumps(summary, indent=1))
    return summary


def prune(folder: RunFolder, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete the weights that no selection rule chose."""
    for name, summary in summaries.items():
        kept = {folder.snapshot(name, row["step"]) for row in summary["selection"].values() if row["step"] is not None}
        for path in set((folder.replica(name) / "checkpoints").glob("step-*.safetensors")) - kept:
            path.unlink()


def print_finished(finished: TrainingResult) -> None:
    """The table of scores, and where everything is."""
    console = Console()
    folder, facts = finished.folder, finished.facts
    titles = {replica.name: replica.title for replica in folder.replicas()}
    summaries = {titles[name]: summary for name, summary in finished.summaries.items()}
    failures = {titles[name]: failure["step"] for name, failure in finished.failures.items()}
    console.print(summary_table(summaries, facts["data"], facts["caveat"], failures, facts["scored"]))
    lines = [f"Learning curve: {folder.replica(name) / 'curve.png'}" for name in finished.summaries]
    lines += [f"Run:            {folder.path}", *finished.profile]
    if finished.sent is not None:
        uri = masked(tracking_uri(folder.path))
        local, beside = store_path(uri), store_path(beside_uri(folder.path))
        command = f"dqlab ui {shlex.quote(str(folder.path) if local == beside else uri)}"
        lines.append(f"MLflow:         {command if local else uri}")
    for line in lines:
        console.print(line, soft_wrap=True)
