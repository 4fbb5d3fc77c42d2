"""A dqlab run's policy, evaluated in both stacks: same initial states, same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dqlab import configuration
from dqlab.errors import RunError
from dqlab.experiment import Experiment
from dqlab.fidelity.rows import Say, laws_of, spread
from dqlab.fidelity.sides import Array
from dqlab.records import RunRecord
from dqlab.run_folder import RunFolder
from dqlab.training import checkpoint

BACKENDS = ("d4rl", "gymnasium")


def compared(path: Path, episodes: int, say: Say) -> str:
    """A Markdown table of the D4RL scores of a run's last checkpoint, its first replica, in both stacks.

    Raises:
        RunError: there is no such run, or it has no checkpoint.
    """
    folder = RunFolder(path)
    facts, replica = folder.facts(), folder.replicas()[0]
    kept = sorted((folder.replica(replica.name) / "checkpoints").glob("step-*.safetensors"))
    if not kept:
        raise RunError(f"{path} has no checkpoint of {replica.title} yet.")
    scores: dict[str, Array] = {}
    configuration.load_stored(folder.config)
    for bindings in _ways(Experiment()):
        configuration.load_stored(folder.config, [f"Experiment.{name}={value!r}" for name, value in bindings.items()])
        experiment = Experiment()
        name = ", ".join(bindings.values())
        say(f"{path}: {name}")
        scores[name] = _scores(experiment, facts, kept[-1], episodes)
    return _table(f"The policy of a run on {facts['task']} ({kept[-1].stem})", scores)


def _ways(experiment: Experiment) -> list[dict[str, str]]:
    """What to evaluate with: the original first."""
    original, today = BACKENDS
    laws = [{"physics": law} if law else {} for law in laws_of(experiment.the_task)]
    return [{"env_backend": original}, *({"env_backend": today, **law} for law in laws)]


def _scores(experiment: Experiment, facts: RunRecord, file: Path, episodes: int) -> Array:
    experiment.check()
    evaluator = experiment.evaluator(episodes)
    data = facts["data"]
    evaluator.standardised_by = (data.get("state_mean", ()), data.get("state_std", ()))
    weights, record = checkpoint.load_weights(file)
    pack = experiment.pack([experiment.the_replicas[0]])
    pack.load(0, weights)
    try:
        return np.asarray(experiment.the_task.score(evaluator.run(pack, record["step"])[0].returns))
    finally:
        evaluator.environments.close()


def _table(title: str, scores: dict[str, Array]) -> str:
    original = scores[BACKENDS[0]]
    lines = [f"**{title}**", "", "| stepped by | episodes | D4RL score | paired difference |", "|---|---|---|---|"]
    for name, values in scores.items():
        cells = [name, str(len(values)), spread(values), spread(values - original)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
