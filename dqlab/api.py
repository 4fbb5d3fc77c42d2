"""The library: what the commands do, as functions. `import dqlab` has all of it; docs/python.md shows it at work.

No call changes anything for the next one, or for whoever calls: `isolated`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dqlab.ablation import GridRequest
from dqlab.ablation import ablate as run_grid
from dqlab.ablation.driver import EXIT_CODES
from dqlab.ablation.folder import GridFolder
from dqlab.analysis.compare import compare_groups, find_runs
from dqlab.analysis.report.figures import new_figure
from dqlab.analysis.report.inspection import INSIDE
from dqlab.analysis.results import Report
from dqlab.config import gin_files
from dqlab.config.gin_state import OtherConfiguration
from dqlab.config.plugins import load_plugins
from dqlab.errors import ConfigError, RunError, StoppedError, in_python, nearest, score_or_return
from dqlab.files import expanded
from dqlab.machine import interrupts_as_event
from dqlab.printing import Console
from dqlab.runs.evaluate import evaluate_policies
from dqlab.runs.inspection import inspect_replica
from dqlab.runs.load_policy import as_bindings, load_policies, load_policy
from dqlab.runs.policy import LoadedPolicy, isolated
from dqlab.runs.run import new_run_folder
from dqlab.runs.run import train as run_training
from dqlab.tracking import RunFolder
from dqlab.tracking.folders import list_runs, logged_metrics
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.records import InspectionRecord
from dqlab.tracking.selection_rules import CHECKPOINT_RULES, SELECTION_RULES, rule_name

__all__ = ["Ablation", "LoadedPolicy", "Run", "ablate", "compare", "evaluate", "list_runs", "load_policy", "train"]


load_policy = in_python(load_policy)


class Run:
    """A run of `train` or of the command line, by its folder, `path`. Raises RunError: it is not a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        self._folder = RunFolder(self.path)
        self._folder.facts()

    def __fspath__(self) -> str:
        """Its folder: whatever takes one takes the run, `load_policy` too."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"<dqlab run {self.path}: {self.facts.get('algorithm')} on {self.facts['task']}, {self.state}>"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What run.json says: task, data, versions, state, ..."""
        return self._folder.facts()

    @property
    def state(self) -> str:
        """`running`, `interrupted`, `finished` or `failed` (docs/runs.md)."""
        return str(self.facts["state"])

    @property
    def summary(self) -> pd.DataFrame:
        """The scores: a row a replica and selection rule; `.attrs['caveat']` says what must stand beside them.

        Raises RunError: no replica has finished.
        """
        rows, reasons = [], []
        for replica in self._folder.replicas():
            about = {"replica": replica.name, "cell": replica.cell, "seed": replica.seed}
            try:
                found = self._folder.summary(replica)["selection"]
                rows += [{**about, "rule": rule, **found[rule]} for rule in SELECTION_RULES if rule in found]
            except RunError as error:
                reasons.append(error)
        if not rows:
            raise reasons[0]
        table = pd.DataFrame(rows)
        table.attrs["caveat"] = self.facts["caveat"]
        return table

    def metrics(self) -> pd.DataFrame:
        """All that was logged so far, a row a number: replica, seed, step, metric, value."""
        table = logged_metrics(self._folder)
        table.attrs["caveat"] = self.facts["caveat"]
        return table

    def plot(self, metric: str | None = None) -> Figure:
        """A metric over updates, a line a replica: the score by default, or the return where there are no scores.

        Three names draw what `inspect` finds: `actions`, `values`, and, of the first replica, `chain`.
        Raises RunError: nothing of that name was logged, or can be seen.
        """
        if metric is not None and metric in INSIDE:
            return INSIDE[metric](self.inspect())
        known = self.metrics()
        metric = metric or ("score/mean" if self.facts.get("scored", True) else "eval/return_mean")
        shown = known[known["metric"] == metric]
        if shown.empty:
            raise RunError(f"{self.path} has no '{metric}'. It has {', '.join([*INSIDE, *sorted(set(known.metric))])}.")
        figure: Figure = new_figure(7, 4)
        axes = figure.subplots()
        for name, line in shown.groupby("replica", sort=False):
            axes.plot(line["step"], line["value"], marker="o", markersize=3, label=name)
        title = " | ".join(filter(None, (self.facts["task"], self.facts.get("algorithm"), self.facts["caveat"])))
        axes.set(title=title, xlabel="updates", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return figure

    def inspect(self, checkpoint: str = "last") -> dict[str, InspectionRecord]:
        """What is inside its policies, by replica: actions beside the data's, values beside returns, denoising chains.

        What was seen of last policies is kept in their folders, and not computed again.
        Raises RunError: no such checkpoint. DataError: its data are not to be had.
        """
        folder = self._folder
        return {each.title: inspect_replica(folder.replica(each.name), checkpoint) for each in folder.replicas()}

    def policy(self, checkpoint: str = "best", seed: int | None = None, device: str | None = None) -> LoadedPolicy:
        """One of its policies, as `load_policy` loads it."""
        return load_policy(self.path, checkpoint, seed=seed, device=device)

    def resume(self, quiet: bool = False) -> Run:
        """Go on from its last checkpoint to its end, bit for bit as if it had not been interrupted.

        Raises RunError: it has finished, has failed, or is under way elsewhere.
        """
        self._folder.check(resume=True)
        return train(self._folder.config, out=self.path, quiet=quiet, resume=True)


Gin = str | Path | Sequence[str | Path]
"""A gin file that ships with dqlab by its name, a path, or several, of which later ones override earlier ones."""


@in_python
def train(
    gin: Gin,
    *,
    set: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    quiet: bool = False,
    resume: bool = False,
) -> Run:
    """Train what gin files describe, one or many seeds together: `dqlab train`.

    Ctrl-C, or a notebook's stop button, has it save its state and end in a KeyboardInterrupt; `Run.resume` goes on.

    Args:
        gin: `'quickstart'`, `'diffql_walker2d'`, ..., a path, or several.
        set: gin names and values over those of the files, such as `{'DiffusionQL.eta': 0.5}`.
        seeds: one replica each.
        steps: updates in all.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        out: the run's folder; runs/NAME-TIME by default.
        plugins: modules that are imported first.
        quiet: show no progress.
        resume: go on with the run in `out`, as its own gin file says: `Run.resume`.

    Raises:
        ConfigError: a gin file, a name or a value is wrong. DataError: the dataset cannot be had.
        RunError: the folder is in use or has a run already; or replicas have failed.
    """
    files = _gin_files(gin)
    folder = expanded(out) if out is not None else new_run_folder(Path(files[-1]).stem)
    chosen = {"Experiment.seeds": seeds, "Experiment.device": device, "Training.steps": steps}
    bindings = _bindings(set, chosen)
    with isolated(OtherConfiguration()), interrupts_as_event() as stop:
        load_plugins()
        loaded = gin_files.load_gin(files, bindings, plugins, stored=resume)
        try:
            finished = run_training(loaded, folder, resume=resume, quiet=quiet, stop=stop, typed=bindings)
        except StoppedError as error:
            raise KeyboardInterrupt(f"{error}; dqlab.Run({str(folder)!r}).resume() continues") from error
    finished.check_complete()
    return Run(folder)


def _gin_files(gin: Gin) -> list[str | Path]:
    named = [gin] if isinstance(gin, (str, Path)) else list(gin)
    if not named:
        raise ConfigError("Name a gin file, such as 'quickstart'.")
    return named


def _bindings(set: Mapping[str, Any] | None, chosen: Mapping[str, Any]) -> list[str]:
    """Bindings of `set`, and of the other arguments that were given."""
    said = {name: value for name, value in chosen.items() if value is not None}
    given = {n: v if isinstance(v, (str, Integral)) else (*np.asarray(v).tolist(),) for n, v in said.items()}
    return [*as_bindings(set or {}), *as_bindings(given)]


@in_python
def evaluate(
    run: Run | LoadedPolicy | str | Path,
    episodes: int | None = None,
    env: Any = None,
    *,
    checkpoint: str = "last",
    seed: int | None = None,
    plugins: Sequence[str] = (),
) -> pd.DataFrame:
    """Evaluate a policy, or those of a run: a row an episode, with scores where the task has them. `dqlab eval`.

    Args:
        run: a run, its folder, or a policy of `load_policy`.
        episodes: as many as in training by default: then they are the recorded ones, initial states and noise included.
        env: a Gymnasium environment, or its id, in place of the task's; there are returns and no scores.
        checkpoint: of a run: `last`, `best` or `offline`.
        seed: of a run: one of its replicas; all by default.
        plugins: modules that are imported first; installed plugins are known anyway.

    Raises:
        RunError: no such run, replica or checkpoint; or an evaluation gave no score.
        EnvError: the environment raises an error.
    """
    policies = [run] if isinstance(run, LoadedPolicy) else load_policies(run, checkpoint, seed, plugins=plugins)
    if env is None:
        evaluated, failed = evaluate_policies(policies, episodes)
        if failed:
            raise failed[0]
    else:
        evaluated = [(policy, policy.evaluate(episodes, env)) for policy in policies]
    tables = []
    for policy, found in evaluated:
        task, returns = policy.task, found.returns
        about: dict[str, Any] = {"task": task.name, "algorithm": policy.experiment.algorithm}
        about |= {"replica": policy.replica.name, "seed": policy.replica.seed, "step": policy.source.step}
        table = pd.DataFrame({**about, "episode": range(len(returns)), "return": returns, "length": found.lengths})
        tables.append(table.assign(score=task.score(returns)) if env is None and task.scored else table)
    table = pd.concat(tables, ignore_index=True)
    table.attrs["caveat"] = policies[0].caveat if env is None else ""
    return table


class Ablation:
    """A grid of `ablate` or of the command line, by its folder, `path`. Raises RunError: it is not a grid's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        self.facts: Mapping[str, Any] = GridFolder(self.path).facts()

    def __repr__(self) -> str:
        return f"<dqlab grid {self.path}: {self.facts['name']}, {self.facts.get('state', 'begun')}>"

    @property
    def report(self) -> Path:
        """The report's page. Raises RunError: there is none yet."""
        page = GridFolder(self.path).report / "index.html"
        if not page.exists():
            raise RunError(f"{self.path} has no report yet: dqlab.ablate with the same arguments continues the grid.")
        return page

    def table(self) -> pd.DataFrame:
        """Settings compared: a row a selection rule and setting, aggregates over seeds with intervals, and verdicts."""
        return _read_table(self.report.parent / "aggregates.csv")

    def scores(self) -> pd.DataFrame:
        """A row a cell: its place on each axis, task, seed, the score by each rule, state."""
        return _read_table(self.report.parent / "scores.csv")

    def plot(self, rule: str = "last") -> Figure:
        """Interquartile means by a selection rule with their intervals, a line a setting."""
        rule = CHECKPOINT_RULES.get(rule, rule.replace("-", "_"))
        if rule not in SELECTION_RULES:
            raise ConfigError(f"There is no selection rule '{rule}'. {nearest(rule, SELECTION_RULES)}")
        table = self.table()
        shown = table[table["rule"] == rule][::-1]
        figure: Figure = new_figure(7, 1.2 + 0.4 * len(shown))
        axes = figure.subplots()
        axes.hlines(shown["label"], shown["iqm_low"], shown["iqm_high"], linewidth=3, alpha=0.4)
        axes.plot(shown["iqm"], shown["label"], "o")
        caveat = "; ".join(sorted(set(shown["caveat"].dropna())))
        axes.set(title=" | ".join(filter(None, (self.facts["name"], rule_name(rule), caveat))))
        axes.set_xlabel(f"interquartile mean {score_or_return(caveat)}, {100 * shown['confidence'].max():g}% interval")
        axes.grid(axis="x", alpha=0.3)
        return figure


def _read_table(path: Path) -> pd.DataFrame:
    """A table of a report's, in which a setting may be called `None` or `NA`."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


@in_python
def ablate(
    grid: str | Path,
    gin: Gin = (),
    *,
    set: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    steps: int | None = None,
    device: str | None = None,
    engine: str | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    quiet: bool = False,
    **options: Any,
) -> Ablation:
    """Run a grid and report what it says: `dqlab ablate`. Called again with the same arguments it continues.

    Args:
        grid: `'steps'`, `'eta'`, ... of those that ship with dqlab, or a path.
        gin: more gin files, which override the grid's.
        seeds, tasks, steps, device: of every cell.
        engine: `local`, `ray` or `slurm`.
        out: the grid's folder; runs/NAME by default.
        set, plugins, quiet: as `train` takes them.
        options: `reuse`, `force`, `retry`, as `GridRequest` has them.

    Raises:
        ConfigError: a gin file, a name or a value is wrong. DataError: a dataset cannot be had.
        RunError: the folder is in use, or no cell has a result.
    """
    files = [*_gin_files(grid), *(_gin_files(gin) if gin else ())]
    folder = expanded(out) if out is not None else Path("runs") / Path(files[0]).stem
    chosen: dict[str, Any] = {"Grid.engine": engine, "Grid.seeds": seeds, "Grid.tasks": tasks}
    chosen |= {"Training.steps": steps, "Experiment.device": device}
    options |= {"reuse": [expanded(each) for each in options["reuse"]]} if "reuse" in options else {}
    request = GridRequest(files, _bindings(set, chosen), plugins, folder, command="dqlab.ablate", **options)
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("dqlab.ablate works in the main thread only: it is there that Ctrl-C arrives.")
    with isolated(OtherConfiguration()):
        load_plugins()
        status = run_grid(request, Console(quiet=quiet))
    if status == EXIT_CODES["interrupted"]:
        raise KeyboardInterrupt(f"the grid in {folder} was interrupted; the same call continues")
    if status:
        said = f"Some cells have failed: dqlab.Ablation({str(folder)!r}).scores() says which."
        warnings.warn(said, stacklevel=3)  # `in_python` is between
    return Ablation(folder)


@in_python
def compare(
    runs: Sequence[Run | Ablation | str | Path], rules: Sequence[str] | None = None, experiment: str | None = None
) -> pd.DataFrame:
    """Score groups of runs of one configuration: `dqlab compare`. A row a group, task and selection rule.

    What must be known of the comparison is warned of, and stands in `.attrs['warnings']`; `.attrs['different']` has the
    parameters in which the groups differ.

    Args:
        runs: runs, grids, their folders, or MLflow run ids.
        rules: selection rules; last, offline and best-online by default.
        experiment: of MLflow: all of its runs, too.

    Raises:
        ConfigError: nothing is named. RunError: something that is named is not there, or nothing has finished.
    """
    named = [str(run.path if isinstance(run, (Run, Ablation)) else expanded(run)) for run in runs]
    with isolated(OtherConfiguration()):
        found = find_runs(named, experiment, "", tracking_uri(Path("runs") / "any"))
        compared = compare_groups(found, rules or Report().rules)
    means, iqms = (compared.scores[compared.scores.metric == metric] for metric in ("mean", "iqm"))
    table = means[["task", "group", "name", "rule"]].reset_index(drop=True).assign(seeds=[*map(list, means.seeds)])
    for metric, found_scores in (("mean", means), ("iqm", iqms)):
        table[[metric, f"{metric}_low", f"{metric}_high"]] = found_scores[["point", "low", "high"]].to_numpy()
    table[["caveat", "data_digest"]] = means[["caveat", "data_digest"]].to_numpy()
    table = table.sort_values("task", key=lambda tasks: pd.factorize(tasks)[0], kind="stable", ignore_index=True)
    table.attrs["different"] = {group["group"]: group["config"] for group in compared.groups}
    table.attrs["warnings"] = list(compared.warnings)
    for text in compared.warnings:
        warnings.warn(text, stacklevel=3)  # `in_python` is between
    return table
