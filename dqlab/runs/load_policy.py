"""Policies by name: of a run, an export, the Hub, those that ship with dqlab, and the official code's."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from dqlab.config.gin_state import OtherConfiguration
from dqlab.config.replica import Replica
from dqlab.errors import ConfigError, RunError, nearest_of_few, one_line, printable_name
from dqlab.files import expanded
from dqlab.runs.evaluate import checkpoint_files, load_experiment, load_official, load_replica, standardisation
from dqlab.runs.policy import LoadedPolicy, PolicySource, isolated
from dqlab.tracking import RunFolder
from dqlab.tracking.records import read_record

EXPORTED = "policy.json"


class ExportRecord(TypedDict):
    """policy.json, which makes a folder an exported policy: of its weights the file, and what its models take.

    Attributes:
        noise: name -> shape, with B for the number of states.
    """

    weights: Annotated[str, Field(pattern=r"^\w[\w.=+-]*/checkpoints/step-\d+\.safetensors$")]
    task: str
    noise: dict[str, list[int | str]]


def load_policy(
    source: str | Path,
    checkpoint: str = "best",
    *,
    seed: int | None = None,
    device: str | None = None,
    task: str | None = None,
    set: Mapping[str, Any] | None = None,
    compiled: bool = False,
) -> LoadedPolicy:
    """Load a trained policy.

    Args:
        source: a run's folder, one replica's folder in it, a file of its checkpoints, what `dqlab export` has written,
            here or on the Hugging Face Hub (`hf:USER/REPO`), a policy that ships with dqlab (`pretrained:NAME`), or a
            folder of the official code's `actor_*.pth` and `critic_*.pth`.
        checkpoint: `best` (as scored in the environment: best-online), `last` or `offline`; of the official code's, the
            epoch, the latest one for `best` and `last`.
        seed: which replica, where the run has several.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; as in training by default.
        task: of the official code's policy.
        set: gin names and values, over the run's.
        compiled: act by compiled code: some ten seconds at the first call, and a fraction of the time at all others.

    Raises:
        RunError: there is no such run, replica or checkpoint. ConfigError: a choice is wrong.
    """
    path, configuration = source_folder(source), OtherConfiguration()
    bindings = as_bindings({**({"Experiment.device": device} if device else {}), **(set or {})})
    with isolated(configuration):
        if path.is_dir() and not (path / "run.json").exists() and any(path.glob("actor*.pth")):
            return _load_official(configuration, path, checkpoint, task, bindings, compiled)
        if task is not None:
            raise ConfigError("`task` belongs to the official code's checkpoints; a run knows its own.")
        folder, file = _find(path, checkpoint, seed)
        experiment, facts = load_experiment(folder, bindings)
        pack, replica, step = load_replica(experiment, folder, file)
        name = source if str(source).startswith((HUB, PRETRAINED)) else folder.path.name
        source_of = PolicySource(f"{name}, {replica.title}, step {step:,}", step, facts, file)
        by = standardisation(facts)
        return LoadedPolicy(configuration, experiment, pack, source_of, replica, by, compiled)


def as_bindings(values: Mapping[str, Any]) -> list[str]:
    """Gin names and Python values as single bindings.

    Raises:
        ConfigError: a value is none that a gin file can say.
    """
    return [f"{name}={_literal(name, value)}" for name, value in values.items()]


def _literal(name: str, value: Any) -> str:
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    text = repr(str(plain) if isinstance(plain, Path) else plain)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        kinds = "a number, a text, True or False, or a tuple, list or dictionary of those"
        raise ConfigError(f"{name} is {printable_name(text)}: a gin parameter is {kinds}.") from error
    return text


HUB, PRETRAINED = "hf:", "pretrained:"
"""What the names of repositories on the Hugging Face Hub, and of policies that ship with dqlab, begin with."""


def pretrained_policies() -> dict[str, Path]:
    """The policies that ship with dqlab: name -> folder, which is an exported policy's without its models."""
    folders = sorted((Path(__file__).parent / "pretrained").glob(f"*/{EXPORTED}"))
    return {folder.parent.name: folder.parent for folder in folders}


def source_folder(source: str | Path) -> Path:
    """The folder or file that a name of `load_policy` means; a repository of the Hub's is fetched where it has changed.

    Raises:
        RunError: it is not to be had.
    """
    kind, _, name = str(source).partition(":")
    if f"{kind}:" == PRETRAINED:
        known = pretrained_policies()
        if name not in known:
            raise RunError(f"No pretrained policy is called '{name}'. {nearest_of_few(name, known)}")
        return known[name]
    if f"{kind}:" != HUB:
        return expanded(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.onnx", "*.pt2", "*.py"]))
    except Exception as error:  # the Hub's client raises those of several libraries
        raise RunError(f"{source} cannot be had: {one_line(error)}") from error


def _find(path: Path, checkpoint: str, seed: int | None) -> tuple[RunFolder, Path]:
    """The run's folder, and the file of its weights; what `dqlab export` has written has one file."""
    if (path / EXPORTED).exists():
        path = path / read_record(path / EXPORTED, ExportRecord)["weights"]
    if path.is_file():  # RUN/replica/checkpoints/step-N.safetensors
        return RunFolder(path.absolute().parents[2]), path
    if not (path / "run.json").exists() and (path.absolute().parent / "run.json").exists():
        folder, name = RunFolder(path.absolute().parent), path.name
        own = [replica for replica in folder.replicas() if replica.name == name]
    else:
        folder, name = RunFolder(path), ""
        own = [replica for replica in folder.replicas() if seed in (None, replica.seed)]
    if len(own) > 1:
        raise RunError(
            f"{folder.path} has {len(own)} replicas: name a `seed`, or a replica's folder, "
            f"{', '.join(str(folder.replica(replica.name)) for replica in own[:3])}{', ...' if own[3:] else ''}."
        )
    files = checkpoint_files(folder, seed, checkpoint)
    return folder, next((file for file in files if own and own[0].name in file.parts), files[0])


def _load_official(
    configuration: OtherConfiguration,
    path: Path,
    checkpoint: str,
    task: str | None,
    bindings: Sequence[str],
    compiled: bool,
) -> LoadedPolicy:
    if task is None:
        raise ConfigError(f"{path} is of the official code's: say its `task`, such as 'walker2d-medium-expert-v2'.")
    epoch = None if checkpoint in ("best", "last") else checkpoint
    experiment, pack, trained = load_official(path, task, epoch, bindings)
    source = PolicySource(f"official checkpoint {trained.stem} ({trained.schedule})", 0, {}, path)
    return LoadedPolicy(configuration, experiment, pack, source, Replica.plain(0), compiled=compiled)
