"""Policies by name: of a run, an export, the Hub, those that ship with dqlab, and the official code's.

Of the official code's: which files, what they say of the agent, and its weights.
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dqlab.config import gin_files
from dqlab.config.gin_state import (
    OtherConfiguration,
    abbreviate_names,
    bind_parameter,
    bound_parameters,
    complete_name,
    parameters_read,
)
from dqlab.config.identity import Replica
from dqlab.config.plugins import load_plugins, naming_plugins
from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError, DqlabError, RunError, nearest_of_few, one_line, printable_name, printable_names
from dqlab.files import expanded
from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import TwinCritic
from dqlab.runs.experiment import Experiment, build_evaluator, check_experiment, execution_mode
from dqlab.runs.policy import LoadedPolicy, PolicySource, isolated
from dqlab.tracking import RunFolder
from dqlab.tracking.records import WeightsRecord, read_record
from dqlab.tracking.selection_rules import CHECKPOINT_RULES
from dqlab.training.checkpoint import read_checkpoint
from dqlab.training.execution.modes import execution_modes, name_of

EXPORTED = "policy.json"


class ExportRecord(TypedDict):
    """policy.json, which makes a folder an exported policy: of its weights the file, and what its models take."""

    weights: Annotated[str, Field(pattern=r"^\w[\w.=+-]*/checkpoints/step-\d+\.safetensors$")]
    task: str
    noise: dict[str, list[int | str]]  # name -> shape, with B for the number of states


def load_policy(
    source: str | PathLike[str],
    checkpoint: str = "best",
    *,
    seed: int | None = None,
    device: str | None = None,
    task: str | None = None,
    set: Mapping[str, Any] | None = None,
    compiled: bool = False,
    plugins: Sequence[str] = (),
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
        set: gin names and values, over the run's; a ConfigError where neither policy nor evaluations read one.
        compiled: act by compiled code: some ten seconds at the first call, and a fraction of the time at all others.
        plugins: modules that are imported first; installed plugins are known anyway.

    Raises:
        RunError: there is no such run, replica or checkpoint. ConfigError: a choice is wrong.
    """
    chosen = {**({"Experiment.device": device} if device else {}), **(set or {})}
    policies = load_policies(source, checkpoint, seed, task, as_bindings(chosen), compiled, plugins)
    _check_read([name for name in set or {} if not complete_name(name).startswith(OF_DATA)], policies[0])
    if len(policies) > 1:
        named = f"name a `seed`, or a replica's folder, such as {policies[0].source.file.parents[1]}"
        raise RunError(f"{policies[0].source.folder.path} has {len(policies)} replicas: {named}.")
    return policies[0]


def _check_read(names: Sequence[str], policy: LoadedPolicy) -> None:
    """A ConfigError where neither the policy nor its environment has read a parameter: it would have no effect."""
    bindings = [f"{name}=None" for name in names]
    with policy.ready():
        try:
            gin_files.check_parameters_read(bindings, parameters_read())
        except ConfigError:  # an environment is made only where it may be what reads it
            with closing(build_evaluator(policy.experiment)) as evaluator:
                evaluator.environments.prepare(1)
                gin_files.check_parameters_read(bindings, parameters_read())


def load_policies(
    source: str | PathLike[str],
    checkpoint: str = "last",
    seed: int | None = None,
    task: str | None = None,
    bindings: Sequence[str] = (),
    compiled: bool = False,
    plugins: Sequence[str] = (),
) -> list[LoadedPolicy]:
    """The same of each of a run's replicas, or of one: with the run's configuration, as gin's bindings change it."""
    path, configuration = source_folder(source := fspath(source)), OtherConfiguration()
    found: list[tuple[Replica, Mapping[str, Mapping[str, Tensor]], PolicySource]] = []
    with isolated(configuration):
        load_plugins(plugins)
        if task is not None or (any(path.glob("actor*.pth")) and not (path / "run.json").exists()):
            if task is None:
                raise ConfigError(f"{path} is of the official code's: say its `task`, such as 'hopper-medium-v2'.")
            trained = read_official(path, None if checkpoint in ("best", "last") else checkpoint)
            gin_files.load_gin([], [*as_bindings({**trained.settings, "Experiment.task": task}), *bindings])
            experiment = Experiment()
            _check_official(trained, experiment)
            check_experiment(experiment)
            name = f"official checkpoint {trained.stem} ({trained.schedule})"
            found = [(Replica.plain(0), trained.weights, PolicySource(name, 0, {}, path / trained.stem))]
        else:
            folder, files = _find(path, checkpoint, seed)
            name = source if source.startswith((HUB, PRETRAINED)) else folder.path.absolute().name
            name += "" if (path / EXPORTED).exists() or path.is_file() else f", checkpoint {checkpoint}"
            with naming_plugins(folder.facts()):
                gin_files.load_gin([folder.config], bindings, stored=True)
                named = {complete_name(name) for binding in bindings for name in gin_files.bound_names(binding)}
                _compute_here(folder.facts(), named)
                check_experiment(experiment := Experiment())
            known = {replica.name: replica for replica in folder.replicas()}
            for file in files:
                weights, record = read_checkpoint(file, WeightsRecord)
                if "seed" not in record:
                    holds = "holds a training state, no weights of one replica"
                    raise RunError(f"{file} {holds}. Name a file of checkpoints/.")
                replica = known.get(record.get("replica", ""), Replica.plain(record["seed"]))
                found.append((replica, weights, PolicySource(name, record["step"], folder.facts(), file)))
            if other := [replica.seed for replica, *_ in found if seed not in (None, replica.seed)]:
                raise RunError(f"{source} has the weights of seed {other[0]}, not of seed {seed}.")
        try:
            return [LoadedPolicy(configuration, experiment, *each, compiled) for each in found]
        except RunError as error:
            if not (others := [binding for binding in bindings if not binding.startswith("Experiment.device")]):
                raise
            raise RunError(f"{error} This was set over the run's configuration: {', '.join(others)}.") from error


def as_bindings(values: Mapping[str, Any]) -> list[str]:
    """Gin names and Python values as single bindings; a ConfigError where a gin file cannot say one."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"`set` is a dictionary, such as {{'DiffusionQL.eta': 0.5}}, not {values!r}.")
    texts = {}
    for name, value in values.items():
        plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
        texts[name] = text = repr(str(plain) if isinstance(plain, Path) else plain)
        try:
            ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            kinds = "a number, a text, True or False, or a tuple, list or dictionary of those"
            raise ConfigError(f"{name} is {printable_name(text)}: a gin parameter is {kinds}.") from error
    return [f"{name}={text}" for name, text in texts.items()]


EXECUTION, AUTO = "Training.execution", "auto"
OF_DATA = ("data.", "data_source.", "data_format.", "reward_transform.")
"""Modules in gin of what is read where a policy is shown beside its data, and not where it acts."""


def _compute_here(facts: Mapping[str, Any], named: Collection[str]) -> None:
    """Where this machine has not what a run was computed by, choose what it has instead; it is the same policy.

    That is a GPU, its rounding of products, its graphs, a compiler. What whoever loads has `named` stands, and is
    refused where it is not to be had.
    """
    for name, instead in (("device", AUTO), ("precision", "full")):
        experiment = Experiment()
        if complete_name(f"Experiment.{name}") not in named:
            try:
                getattr(experiment, f"resolved_{name}")
            except ConfigError:
                bind_parameter(f"Experiment.{name}", instead)
    experiment = Experiment()
    device = experiment.resolved_device
    if complete_name(EXECUTION) in named and experiment.plan.execution != AUTO:
        return
    if execution_mode(experiment, facts).unavailable_reason(device):
        bind_parameter(EXECUTION, name_of(execution_modes.get(AUTO)().resolve(device)))


HUB, PRETRAINED = "hf:", "pretrained:"
"""What the names of repositories on the Hugging Face Hub, and of policies that ship with dqlab, begin with."""


def pretrained_policies() -> dict[str, Path]:
    """The policies that ship with dqlab: name -> folder, which is an exported policy's without its models."""
    folders = sorted((Path(__file__).parent / "pretrained").glob(f"*/{EXPORTED}"))
    return {folder.parent.name: folder.parent for folder in folders}


def source_folder(source: str) -> Path:
    """The folder or file that a name of `load_policy` means; a repository of the Hub's is fetched where it changed."""
    if source.startswith(PRETRAINED):
        name, known = source.removeprefix(PRETRAINED), pretrained_policies()
        if name not in known:
            raise RunError(f"No pretrained policy is called '{name}'. {nearest_of_few(name, known)}")
        return known[name]
    if not source.startswith(HUB):
        return expanded(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source.removeprefix(HUB), ignore_patterns=["*.onnx", "*.pt2", "*.py"]))
    except Exception as error:  # the Hub's client raises those of several libraries
        raise RunError(f"{source} cannot be had: {one_line(error)}") from error


def _find(path: Path, checkpoint: str, seed: int | None) -> tuple[RunFolder, list[Path]]:
    """The run's folder, and the files of its weights, one a replica; what `dqlab export` has written has one file."""
    if (path / EXPORTED).exists():
        path = path / read_record(path / EXPORTED, ExportRecord)["weights"]
    if path.is_file():  # RUN/replica/checkpoints/step-N.safetensors
        if path.suffix != ".safetensors" or path.absolute().parent.name != "checkpoints":
            raise RunError(f"{path} is no checkpoint: name a run's folder, or a file in its REPLICA/checkpoints.")
        return RunFolder(path.absolute().parents[2]), [path]
    own = not (path / "run.json").exists() and (path.absolute().parent / "run.json").exists()  # RUN/replica
    folder = RunFolder(path.absolute().parent if own else path)
    return folder, checkpoint_files(folder, seed, checkpoint, path.name if own else "")


def checkpoint_files(folder: RunFolder, seed: int | None, which: str, name: str = "") -> list[Path]:
    """The files of a selection rule, one a replica; of those with a seed, or a name; or the one file that is named."""
    known = {replica.name: replica for replica in folder.replicas()}
    if which not in CHECKPOINT_RULES:
        if Path(which).is_file():
            return [Path(which)]
        rules = ", ".join(CHECKPOINT_RULES)
        raise RunError(f"There is no checkpoint '{which}'. Use {rules}, or a .safetensors file's path.")
    if name and name not in known:
        raise RunError(f"{folder.path} has no replica '{name}'. {nearest_of_few(name, known)}")
    wanted = [each for each in known.values() if seed in (None, each.seed) and name in ("", each.name)]
    if not wanted:
        raise RunError(f"{folder.path} has no seed {seed}; it has {sorted({each.seed for each in known.values()})}.")
    files = []
    for replica in wanted:
        kept = (folder.replica(replica.name) / "checkpoints").glob("step-*.safetensors")
        newest = max(kept, default=None) if which == "last" else None  # known before the run has finished
        files.append(newest or folder.snapshot(replica.name, folder.chosen_step(replica, CHECKPOINT_RULES[which])))
    return files


def _check_official(trained: OfficialCheckpoint, experiment: Experiment) -> None:
    """See that the task and the configuration are those of the files."""
    task, sizes = experiment.resolved_task, trained.dims
    if sizes != (task.state_dim, task.action_dim):
        other = f"{task.name} has {task.state_dim} and {task.action_dim}. Name its own task with --task."
        raise RunError(f"{trained.stem} sees states of {sizes[0]} numbers and gives actions of {sizes[1]}; {other}")
    bound = abbreviate_names(bound_parameters())
    for name, value in trained.settings.items():
        if bound[name] != value and name not in ("DiffusionPolicy.schedule", "listed.betas"):
            raise ConfigError(f"--set {name}={bound[name]!r} contradicts {trained.stem}, which has {value!r}.")
    process = getattr(getattr(experiment.resolved_algorithm, "resolved_policy", None), "process", None)
    if process is None:
        raise ConfigError(f"{trained.stem} is a diffusion policy: leave the algorithm and its policy as they are.")
    if not len(trained.betas) and not {"DiffusionPolicy.n_timesteps", "DiffusionPolicy.schedule"} <= bound.keys():
        say = "--set DiffusionPolicy.n_timesteps=N DiffusionPolicy.schedule=NAME"
        raise ConfigError(f"{trained.stem} does not tell its noise schedule. Say it: {say}.")
    if len(trained.betas) and not same_betas(torch.tensor(process.betas, dtype=torch.float64), trained.betas):
        raise ConfigError(f"The noise schedule that --set makes contradicts {trained.stem}; it has {trained.schedule}.")


BUFFER = re.compile(r"betas|(?:alphas|sqrt|log|posterior)_\w+")
"""What the official actor keeps of its schedule; all of it follows from the betas."""

Weights = dict[str, Tensor]
Rules = list[tuple[re.Pattern[str], str]]
# official name -> dqlab name; the official time_mlp counts the sinusoidal embedding as layer 0
ACTOR: Rules = [
    (re.compile(r"^(?:model\.)?time_mlp\.1\."), "time_mlp.0."),
    (re.compile(r"^(?:model\.)?time_mlp\.3\."), "time_mlp.2."),
    (re.compile(r"^(?:model\.)?(mid_layer\.\d+|final_layer)\."), r"\1."),
]
CRITIC: Rules = [(re.compile(r"^q1_model\."), "members.0.layers."), (re.compile(r"^q2_model\."), "members.1.layers.")]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """An official checkpoint: what its two files hold."""

    stem: str  # of the actor's file
    weights: dict[str, Weights]  # of `actor` and `critic`, under dqlab's names
    betas: Tensor  # (N,) float64, of the actor's noise schedule; empty where its file has none
    dims: tuple[int, int]  # of states and actions
    settings: dict[str, Any]  # what the files say of the agent, as gin parameters
    schedule: str  # in words


def read_official(folder: Path, epoch: str | None = None) -> OfficialCheckpoint:
    """Read `actor[_EPOCH].pth` and `critic[_EPOCH].pth`, the latest by default, without running anything in them.

    Raises RunError: no such files; or they cannot be read, or hold something else.
    """
    actor_file, critic_file = _pair(folder, epoch)
    actor, critic = _tensors(actor_file), _tensors(critic_file)
    buffers = {name: actor.pop(name) for name in [*actor] if BUFFER.fullmatch(name)}
    actor, critic = _renamed(actor_file, actor, ACTOR), _renamed(critic_file, critic, CRITIC)
    try:
        action_dim, hidden = actor["final_layer.weight"].shape
        width, inputs = critic["members.0.layers.0.weight"].shape
        depth = sum(name.startswith("mid_layer.") and name.endswith(".weight") for name in actor)
        layers = sum(name.startswith("members.0.") and name.endswith(".weight") for name in critic)
        dims, time_dim = (inputs - action_dim, action_dim), len(actor["time_mlp.2.bias"])
        denoiser: dict[str, Any] = {"hidden_dim": hidden, "time_dim": time_dim, "depth": depth}
        twin: dict[str, Any] = {"hidden_dim": width, "depth": layers - 1}
        Layout.of(MLPDenoiser(*dims, **denoiser)).flatten(actor)
        Layout.of(TwinCritic(*dims, **twin)).flatten(critic)
    except (LookupError, TypeError, ValueError, DqlabError) as error:
        reason = str(error).rstrip(".")
        raise RunError(f"{actor_file} and {critic_file} are not the official code's networks: {reason}.") from error
    betas = buffers.get("betas", torch.empty(0)).double()
    if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
        raise RunError(f"{actor_file} has betas that are no schedule, numbers between 0 and 1.")
    settings = {f"MLPDenoiser.{name}": value for name, value in denoiser.items()}
    settings |= {f"TwinCritic.{name}": value for name, value in twin.items()}
    schedule = "a schedule that the file does not tell"
    if len(betas):
        official = ("vp", "linear", "cosine")  # schedules of the official code; dqlab's have the same names
        known = next((name for name in official if _is_schedule(name, betas)), "")
        settings |= {"DiffusionPolicy.n_timesteps": len(betas), "DiffusionPolicy.schedule": known or "listed"}
        settings |= {} if known else {"listed.betas": tuple(betas.tolist())}
        schedule = f"N = {len(betas)}, {known or 'betas of its own'}"
    weights = {"actor": actor, "critic": critic}
    return OfficialCheckpoint(actor_file.stem, weights, betas, dims, settings, schedule)


def _pair(folder: Path, epoch: str | None) -> tuple[Path, Path]:
    """The files of an epoch, or of the latest by its number; averages of weights, which do not act, are no epochs."""
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}: --official wants the one with the official actor[_EPOCH].pth.")
    epochs = {path: re.fullmatch(r"actor(?:_(\d+))?", path.stem) for path in folder.glob("actor*.pth")}
    numbered = {path: int(found[1] or -1) for path, found in epochs.items() if found}
    name = "actor[_EPOCH].pth" if epoch is None else f"actor_{epoch}.pth"
    actor = max(numbered, key=numbered.__getitem__, default=folder / name) if epoch is None else folder / name
    if not actor.exists():
        there = printable_names(path.name for path in folder.glob("*.pth")) or "no .pth file at all"
        raise RunError(f"No official checkpoint ({name}) in {folder}. There is {there}.")
    critic = actor.with_name(actor.name.replace("actor", "critic", 1))
    if not critic.exists():
        raise RunError(f"{critic} is missing: an official checkpoint has an actor and a critic file.")
    return actor, critic


def _tensors(path: Path) -> Weights:
    """The file's tensors, by the official code's names."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch reads a flipped bit as another weight
                raise zipfile.BadZipFile(f"{damaged} is not what its checksum says")
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch and zipfile raise many kinds for a damaged file, or one with code in it
        said = f"is damaged, or no plain state dict that torch.save has written ({type(error).__name__})"
        raise RunError(f"{path} {said}. Copy it anew; nothing in a file is run.") from error
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise RunError(f"{path} holds no state dict (names of weights, each with its tensor).")
    found = {str(name): value.detach() for name, value in held.items()}
    for name, value in found.items():
        if value.layout != torch.strided or not value.is_floating_point() or not bool(value.isfinite().all()):
            raise RunError(f"{path}: {printable_name(name)} is no array of finite floating-point numbers.")
    return found


def renamed(name: str, rules: Rules) -> str:
    """dqlab's name of an official weight; empty where no rule matches."""
    return next((pattern.sub(new, name) for pattern, new in rules if pattern.match(name)), "")


def _renamed(path: Path, official: Weights, rules: Rules) -> Weights:
    """The weights under dqlab's names."""
    names = {name: renamed(name, rules) for name in official}
    if strange := [name for name, own in names.items() if not own]:
        kind = "actor" if rules is ACTOR else "critic"
        told = f"{path} has {printable_names(strange[:4])}: no names of the official {kind}'s"
        raise RunError(f"{told}. Is it another network's, or are the two swapped?")
    return {names[name]: value for name, value in official.items()}


def _is_schedule(name: str, betas: Tensor) -> bool:
    try:
        return same_betas(build_betas(name, len(betas)), betas)
    except ConfigError:  # gin files may set its parameters, and wrongly
        return False


def same_betas(first: Tensor, second: Tensor) -> bool:
    """Whether two schedules are one, but for the official code's single precision."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-6)
