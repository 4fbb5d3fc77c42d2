"""The page on fidelity: tables of what was measured, then what is corrected in each family of environments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

import numpy as np

from dqlab.config import gin_files
from dqlab.envs.legacy.process import Worker, legacy_python
from dqlab.errors import ConfigError, RunError, nearest_of_few
from dqlab.files import write_text
from dqlab.machine import package_version
from dqlab.runs import Experiment
from dqlab.runs.build import build_evaluator, build_pack, check_experiment
from dqlab.tools.fidelity.measures import (
    MANY,
    NUDGE,
    ONE,
    FidelityRow,
    Say,
    StackErrors,
    laws_of,
    mean_and_std,
    measure_environment,
    shared_environments,
)
from dqlab.tools.fidelity.stacks import Array
from dqlab.tracking import RunFolder
from dqlab.tracking.records import RunRecord
from dqlab.training import checkpoint

STATES = (
    "environment",
    "stepped by",
    "one step: median",
    "maximum",
    f"{MANY} steps: median",
    "maximum",
    "reward, one step",
    "ends that differ",
)
RETURNS = ("environment", "stepped by", "episodes", "d4rl", "this", "paired difference", "largest")


def fidelity_page(rows: Sequence[FidelityRow], runs: Sequence[str], copies: int, versions: str, command: str) -> str:
    """Markdown.

    Args:
        rows: what was measured.
        runs: a paragraph or table on each dqlab run that was evaluated in both.
        copies: roll-outs and episodes of each figure.
        versions: of what was stepped, in words.
        command: that made this page.
    """
    template = (files("dqlab.tools.fidelity") / "page.md").read_text()
    return template.format(
        command=command,
        date=date.today().isoformat(),
        versions=versions,
        copies=copies,
        one=ONE,
        states=copies * ONE,
        many=MANY,
        nudge=f"{NUDGE:g}",
        errors=_table(STATES, [_errors(row) for row in rows if not row.missing]),
        returns=_table(RETURNS, [_returns(row) for row in rows if row.returns]),
        more="".join(f"{paragraph}\n\n" for paragraph in [*_missing(rows), *runs]),
        families=(files("dqlab.tools.fidelity") / "families.md").read_text().rstrip(),
    )


def _missing(rows: Sequence[FidelityRow]) -> list[str]:
    return [f"Not measured: {row.environment}, {row.stepped_by}: {row.missing}" for row in rows if row.missing]


def _errors(row: FidelityRow) -> list[str]:
    one = row.one and [_short(np.median(row.one.state)), _short(row.one.state.max()), _short(row.one.reward.max())]
    differ = sum(errors.terminations for errors in (row.one, row.many) if errors)
    median, largest, reward = one or ["-"] * 3
    return [row.environment, row.stepped_by, median, largest, *_free(row.many), reward, str(differ) if one else "-"]


def _free(many: StackErrors | None) -> list[str]:
    return [_short(np.median(many.state)), _short(many.state.max())] if many else ["-", "-"]


def _returns(row: FidelityRow) -> list[str]:
    assert row.returns is not None
    theirs, ours = row.returns
    apart = ours - theirs
    largest = _short(np.abs(apart).max())
    return [
        row.environment,
        row.stepped_by,
        str(len(ours)),
        mean_and_std(theirs),
        mean_and_std(ours),
        mean_and_std(apart),
        largest,
    ]


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


BACKENDS = ("d4rl", "gymnasium")


def score_in_both(path: Path, episodes: int, say: Say) -> str:
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
    gin_files.load_stored(folder.config)
    for bindings in _ways(Experiment()):
        gin_files.load_stored(folder.config, [f"Experiment.{name}={value!r}" for name, value in bindings.items()])
        experiment = Experiment()
        name = ", ".join(bindings.values())
        say(f"{path}: {name}")
        scores[name] = _scores(experiment, facts, kept[-1], episodes)
    return _run_table(f"The policy of a run on {facts['task']} ({kept[-1].stem})", scores)


def _ways(experiment: Experiment) -> list[dict[str, str]]:
    """What to evaluate with: the original first."""
    original, today = BACKENDS
    laws = [{"physics": law} if law else {} for law in laws_of(experiment.resolved_task)]
    return [{"env_backend": original}, *({"env_backend": today, **law} for law in laws)]


def _scores(experiment: Experiment, facts: RunRecord, file: Path, episodes: int) -> Array:
    check_experiment(experiment)
    evaluator = build_evaluator(experiment, episodes)
    data = facts["data"]
    evaluator.standardised_by = (data.get("state_mean", ()), data.get("state_std", ()))
    weights, record = checkpoint.load_weights(file)
    pack = build_pack(experiment, [experiment.resolved_replicas[0]])
    pack.load(0, weights)
    try:
        return np.asarray(experiment.resolved_task.score(evaluator.run(pack, record["step"])[0].returns))
    finally:
        evaluator.environments.close()


def _run_table(title: str, scores: dict[str, Array]) -> str:
    original = scores[BACKENDS[0]]
    lines = [f"**{title}**", "", "| stepped by | episodes | D4RL score | paired difference |", "|---|---|---|---|"]
    for name, values in scores.items():
        cells = [name, str(len(values)), mean_and_std(values), mean_and_std(values - original)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


PACKAGES = ("gymnasium", "mujoco", "gymnasium-robotics", "numpy")


def write_fidelity_page(out: Path, chosen: Sequence[str], runs: Sequence[Path], copies: int, say: Say) -> None:
    """Measure, and write the page.

    Args:
        out: the Markdown file.
        chosen: D4RL's environments; all that today's packages have, if empty.
        runs: folders of dqlab runs whose policies are evaluated in both stacks too.
        copies: roll-outs and episodes of each figure.
        say: is told what is measured.

    Raises:
        ConfigError: the original stack is not installed, or there is no such environment.
    """
    legacy_python()
    if copies < 1:
        raise ConfigError(f"--episodes must be at least 1, not {copies}.")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name a file.")
    for run in runs:
        RunFolder(run).facts()
    known = shared_environments()
    for name in chosen:
        if name not in known:
            raise ConfigError(f"There is no environment '{name}'. {nearest_of_few(name, known)}")
    rows = [row for name in chosen or known for row in measure_environment(known[name], copies, say)]
    told = [score_in_both(run, copies, say) for run in runs]
    words = ["dqlab fidelity", *(["--robot", *chosen] if chosen else []), f"--episodes {copies}"]
    words += [f"--run {run}" for run in runs]
    write_text(out, fidelity_page(rows, told, copies, _versions(), " ".join([*words, f"--out {out}"])))


def _versions() -> str:
    worker = Worker(legacy_python())
    original = ", ".join(f"{name} {number}" for name, number in worker.versions.items())
    worker.close()
    return f"original: {original}; today: {', '.join(f'{name} {package_version(name)}' for name in PACKAGES)}"
