"""What is written of a replica that has been trained: its summary, learning curve and the official code's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dqlab import configuration
from dqlab.experiment import Experiment
from dqlab.files import write_text
from dqlab.replica import Replica
from dqlab.run_folder import RunFolder
from dqlab.tracking.curve import draw_curve
from dqlab.training.model_selection import Evaluated, FailedEvaluation, official_result, select


def write_own_config(experiment: Experiment, folder: RunFolder, replica: Replica, text: str, execution: str) -> None:
    """A configuration that repeats one replica of a run alone, to the last bit where the device is the same.

    Args:
        experiment, folder, replica: whose.
        text: the run's operative configuration.
        execution: the mode that the run settled on; `auto` might choose another one for a single replica.
    """
    own = {"Experiment.seeds": (replica.seed,), "Training.execution": execution, **replica.bindings}
    if experiment.replicas:
        own |= {"Experiment.replicas": {}, "Experiment.cell": replica.cell}
    write_text(folder.replica(replica.name) / "config.gin", configuration.rebound(text, own))


def finish_replica(
    experiment: Experiment,
    folder: RunFolder,
    replica: Replica,
    evaluations: list[Evaluated],
    failed: list[FailedEvaluation],
    known: dict[str, Any],
) -> dict[str, Any]:
    """Summary, learning curve and the official code's result files of one replica.

    Args:
        experiment, folder, replica: whose.
        evaluations, failed: those with a score, of which there is a last one, and those without.
        known: what run.json says.
    """
    chosen = select(evaluations, experiment.plan.offline_rule, experiment.plan.top_k)
    by_step = {evaluation.step: evaluation for evaluation in evaluations}
    untrained = by_step.get(0)
    summary = {
        "seed": replica.seed,
        "cell": replica.cell,
        "points": dict(replica.points),
        "steps": evaluations[-1].step,
        "task": known["task"],
        "algorithm": known["algorithm"],
        "caveat": known["caveat"],
        "scored": known["scored"],
        "physics": known["physics"],
        "selection": {rule: asdict(row) for rule, row in chosen.items()},
        "untrained": untrained.as_dict() if untrained else None,
        "data_return_mean": known["data"]["return_mean"],
        "evaluations": [evaluation.as_dict() for evaluation in evaluations],
        "failed_evaluations": [evaluation.as_dict() for evaluation in failed],
    }
    own = folder.replica(replica.name)
    rules = {"best_online": "online", "offline": "offline"} if known["scored"] else {}  # the official code has scores
    for rule, name in rules.items():
        step = chosen[rule].step
        assert step is not None
        write_text(own / f"best_score_{name}.txt", official_result(by_step[step], name))
    title = " | ".join(part for part in (known["task"], known["algorithm"], replica.title, known["caveat"]) if part)
    draw_curve(summary["evaluations"], summary["selection"], title, own / "curve.png", known["scored"])
    write_text(own / "summary.json", json.dumps(summary, indent=1))
    return summary


def prune(folder: RunFolder, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete the weights that no selection rule chose."""
    for name, summary in summaries.items():
        kept = {folder.snapshot(name, row["step"]) for row in summary["selection"].values() if row["step"] is not None}
        for path in (folder.replica(name) / "checkpoints").glob("step-*.safetensors"):
            if path not in kept:
                path.unlink()
