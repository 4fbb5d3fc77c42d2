"""What a run ends with: each replica's summary, its learning curve, the official code's result files; and the table."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dqlab.config.replica import Replica
from dqlab.errors import RunError, masked
from dqlab.files import write_text
from dqlab.printing import Console
from dqlab.runs.experiment import Experiment
from dqlab.tracking.curve import draw_score_curve
from dqlab.tracking.display import summary_table
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.run_folder import RunFolder
from dqlab.training.model_selection import Evaluated, FailedEvaluation, official_result, select_checkpoints
from dqlab.training.replica_states import ReplicaFailure


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        folder: where everything is.
        summaries: of the replicas that were trained to their end, by name.
        failures: of the others.
        facts: what run.json says.
        sent: whether MLflow has all of it; None where it was not asked to.
        profile: what there is to say about a profile, in lines.
    """

    folder: RunFolder
    summaries: dict[str, dict[str, Any]]
    failures: dict[str, ReplicaFailure]
    facts: dict[str, Any]
    sent: bool | None
    profile: Sequence[str] = ()

    def check_complete(self) -> None:
        """See that no replica has failed.

        Raises:
            RunError: some have; the message names them, and the first one's reason.
        """
        titles = [replica.title for replica in self.folder.replicas() if replica.name in self.failures]
        if titles:
            first = next(iter(self.failures.values())).reason
            raise RunError(
                f"{len(titles)} of {len(titles) + len(self.summaries)} replicas failed ({'; '.join(titles)}). {first}"
            )


def write_replica_results(
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
    chosen = select_checkpoints(evaluations, experiment.plan.offline_rule, experiment.plan.top_k)
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
    draw_score_curve(summary["evaluations"], summary["selection"], title, own / "curve.png", known["scored"])
    write_text(own / "summary.json", json.dumps(summary, indent=1))
    return summary


def prune(folder: RunFolder, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete the weights that no selection rule chose."""
    for name, summary in summaries.items():
        kept = {folder.snapshot(name, row["step"]) for row in summary["selection"].values() if row["step"] is not None}
        for path in (folder.replica(name) / "checkpoints").glob("step-*.safetensors"):
            if path not in kept:
                path.unlink()


def print_finished(finished: TrainingResult) -> None:
    """The table of scores, and where everything is."""
    console = Console()
    folder, facts = finished.folder, finished.facts
    titles = {replica.name: replica.title for replica in folder.replicas()}
    summaries = {titles[name]: summary for name, summary in finished.summaries.items()}
    failures = {titles[name]: failure.step for name, failure in finished.failures.items()}
    console.print(summary_table(summaries, facts["data"], facts["caveat"], failures, facts["scored"]))
    for name in finished.summaries:
        console.print(f"Learning curve: {folder.replica(name) / 'curve.png'}", soft_wrap=True)
    console.print(f"Run:            {folder.path}", soft_wrap=True)
    for line in finished.profile:
        console.print(line, soft_wrap=True)
    if finished.sent is None:
        return
    console.print(f"MLflow:         {_how_to_open(masked(tracking_uri(folder.path)))}", soft_wrap=True)


def _how_to_open(uri: str) -> str:
    """The command that shows a local store, as it can be pasted here; a server's address as it is."""
    if not uri.startswith("sqlite"):
        return uri
    command = f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {shlex.quote(uri)}"
    return command.replace(f"{Path.cwd()}/", "")
