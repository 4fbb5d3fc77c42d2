"""Checkpoints of the official code: which files, what they say of the agent, and its weights."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError, DqlabError, RunError, printable_name, printable_names
from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import TwinCritic

OWN = "listed.betas"
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
    state_dim: int
    action_dim: int
    settings: dict[str, Any]  # what the files say of the agent, as gin parameters

    @property
    def schedule(self) -> str:
        """The schedule in words."""
        if not len(self.betas):
            return "a schedule that the file does not tell"
        name = "betas of its own" if OWN in self.settings else self.settings["DiffusionPolicy.schedule"]
        return f"N = {len(self.betas)}, {name}"


def load_checkpoint(folder: Path, epoch: str | None = None) -> OfficialCheckpoint:
    """Read `actor[_EPOCH].pth` and `critic[_EPOCH].pth`, the latest by default, without running anything in them.

    Raises RunError: no such files; or they cannot be read, or hold something else.
    """
    actor_file, critic_file = _pair(folder, epoch)
    actor, critic = _tensors(actor_file), _tensors(critic_file)
    buffers = {name: actor.pop(name) for name in [*actor] if BUFFER.fullmatch(name)}
    weights = {"actor": _renamed(actor_file, actor, ACTOR), "critic": _renamed(critic_file, critic, CRITIC)}
    try:
        dims, sizes = _sizes(**weights)
        for name, network in (("actor", MLPDenoiser), ("critic", TwinCritic)):
            Layout.of(network(*dims, **sizes[network.__name__])).flatten(weights[name])
    except (LookupError, TypeError, ValueError, DqlabError) as error:
        reason = str(error).rstrip(".")
        raise RunError(f"{actor_file} and {critic_file} are not the official code's networks: {reason}.") from error
    betas = buffers.get("betas", torch.empty(0)).double()
    if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
        raise RunError(f"{actor_file} has betas that are no schedule, numbers between 0 and 1.")
    settings = {f"{name}.{field}": value for name, fields in sizes.items() for field, value in fields.items()}
    if len(betas):
        official = ("vp", "linear", "cosine")  # schedules of the official code; dqlab's have the same names
        known = next((name for name in official if _is_schedule(name, betas)), "")
        settings |= {"DiffusionPolicy.n_timesteps": len(betas), "DiffusionPolicy.schedule": known or "listed"}
        settings |= {} if known else {OWN: tuple(betas.tolist())}
    return OfficialCheckpoint(actor_file.stem, weights, betas, *dims, settings)


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


def _sizes(actor: Weights, critic: Weights) -> tuple[tuple[int, int], dict[str, dict[str, Any]]]:
    """S and A, and the parameters of the networks, by their gin names."""
    action_dim, hidden = actor["final_layer.weight"].shape
    width, inputs = critic["members.0.layers.0.weight"].shape
    depth = sum(name.startswith("mid_layer.") and name.endswith(".weight") for name in actor)
    layers = sum(name.startswith("members.0.") and name.endswith(".weight") for name in critic)
    denoiser = {"hidden_dim": hidden, "time_dim": len(actor["time_mlp.2.bias"]), "depth": depth}
    twin = {"hidden_dim": width, "depth": layers - 1}
    return (inputs - action_dim, action_dim), {"MLPDenoiser": denoiser, "TwinCritic": twin}


def _is_schedule(name: str, betas: Tensor) -> bool:
    try:
        return same_betas(build_betas(name, len(betas)), betas)
    except ConfigError:  # gin files may set its parameters, and wrongly
        return False


def same_betas(first: Tensor, second: Tensor) -> bool:
    """Whether two schedules are one, but for the official code's single precision."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-6)
