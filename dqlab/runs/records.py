"""What a run's folder says of how it came about: run.json, config.gin, and one such file a replica."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from dqlab.config import gin_files
from dqlab.config.gin_state import bound_value
from dqlab.config.gin_syntax import parse_bindings, rebind_text
from dqlab.config.identity import changed_results
from dqlab.config.replica import Replica
from dqlab.data.sources import absolute_source
from dqlab.data.transitions import Transitions
from dqlab.errors import PACKAGE, RunError, masked
from dqlab.files import read_text, write_text
from dqlab.machine import IsolatedOutcome, attempt_command, package_version
from dqlab.runs.experiment import Experiment
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.run_folder import RunFolder
from dqlab.tracking.settings import Tracking


def write_record(
    experiment: Experiment, tracking: Tracking, folder: RunFolder, data: Transitions, loaded: gin_files.LoadedConfig
) -> dict[str, Any]:
    """Write config.gin and run.json, after checking that a resumed run is the same; returns what run.json says."""
    text = rebind_text(gin_files.operative_text(loaded), _absolute_paths())
    _check_config(folder, text, data.provenance.digest)
    known = experiment_facts(experiment, data, loaded)
    known |= {"parameters": parse_bindings(text), "mlflow_experiment": tracking.experiment or experiment.task}
    if tracking.mlflow:
        known |= {"mlflow_uri": masked(tracking_uri(folder.path))}
    folder.write_facts(**known, state="running", reason="")
    write_text(folder.config, text)
    return known


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
    write_text(folder.replica(replica.name) / "config.gin", rebind_text(text, own))


VERSIONED = ("dqlab", "torch", "numpy", "gin-config", "gymnasium", "mujoco", "mlflow")


def experiment_facts(experiment: Experiment, data: Transitions, loaded: gin_files.LoadedConfig) -> dict[str, Any]:
    """What the record of a run says about it: tags, not parameters."""
    provenance = data.provenance
    return {
        "task": experiment.task,
        "algorithm": experiment.algorithm,
        "cell": experiment.cell,
        "seeds": sorted({replica.seed for replica in experiment.resolved_replicas}),
        "replicas": {replica.name: replica.as_dict() for replica in experiment.resolved_replicas},
        "physics": experiment.stepped_by,
        "env_backend": experiment.env_backend,
        "device": str(experiment.resolved_device),
        "threads": experiment.resolved_threads,
        "precision": experiment.precision,
        "device_name": _device_name(experiment.resolved_device),
        "variants": _variants(experiment),
        "data": {**provenance.as_dict(), "score_mean": experiment.resolved_task.score(provenance.return_mean)},
        "caveat": "; ".join(filter(None, (provenance.caveat, experiment.resolved_task.caveat))),
        "scored": experiment.resolved_task.scored,
        "versions": {name: package_version(name) for name in VERSIONED} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "gin_files": [str(path) for path in loaded.files],
        "plugins": loaded.imports,
    }


def _variants(experiment: Experiment) -> dict[str, str]:
    """Which variant of the official code's three quirks this run uses."""
    return {
        "lr_schedule": experiment.resolved_algorithm.lr_schedule,
        "offline_rule": experiment.plan.offline_rule,
        "early_stop": experiment.plan.early_stop,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


GIT_SECONDS = 30.0
"""After which the commit is not known."""


def _git_commit() -> str:
    """The commit of the code that runs, with '+changes' if it is not exactly that; empty outside a checkout."""

    def git(*args: str) -> IsolatedOutcome:
        return attempt_command(["git", "-C", str(PACKAGE), *args], timeout=GIT_SECONDS)

    known, commit, changes = (
        git("ls-files", "__init__.py"),
        git("rev-parse", "HEAD"),
        git("status", "--porcelain", "--", "."),
    )
    if not known.output or not (commit.fine and changes.fine):
        return ""
    return commit.output.strip() + ("+changes" if changes.output else "")


def _absolute_paths() -> dict[str, Any]:
    """What names files and folders of the data, as it does from any folder."""
    names = {name: f"data.load_dataset.{name}" for name in ("sources", "map_dir")}
    sources, folder = (bound_value(name) for name in names.values())
    sources = (sources,) if isinstance(sources, str) else tuple(sources or ())
    found = {
        "sources": tuple(map(absolute_source, sources)),
        "map_dir": str(Path(folder or "").expanduser().absolute()),
    }
    return {names[name]: found[name] for name, given in (("sources", sources), ("map_dir", folder)) if given}


def _check_config(folder: RunFolder, text: str, digest: str) -> None:
    """A resumed run must be the same experiment on the same data."""
    if not folder.config.exists():
        return
    found = changed_results(parse_bindings(read_text(folder.config)), parse_bindings(text))
    before = folder.facts()["data"]["digest"]
    if before != digest:
        found.append(f"dataset: SHA-256 {before} before, {digest} now")
    if found:
        raise RunError(f"{folder.path} cannot be resumed with another configuration: {'; '.join(found)}.")
