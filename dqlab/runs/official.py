"""Checkpoints of the official code: which files, what they say of the agent, and its weights."""

from __future__ import annotations

import re
import reprlib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError, RunError

OFFICIAL_SCHEDULES = ("vp", "linear", "cosine")
"""Those of the official code; dqlab's have the same names."""
OWN = "listed.betas"
BUFFERS = {"betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"}
BUFFERS |= {"log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"}
BUFFERS |= {"posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"}
"""What the official actor keeps of its schedule; all of it follows from the betas."""

Weights = dict[str, Tensor]
Rules = list[tuple[re.Pattern[str], str]]
# official name -> dqlab name; the official time_mlp counts the sinusoidal embedding as layer 0
ACTOR_NAMES: Rules = [
    (re.compile(r"^(?:model\.)?time_mlp\.1\."), "time_mlp.0."),
    (re.compile(r"^(?:model\.)?time_mlp\.3\."), "time_mlp.2."),
    (re.compile(r"^(?:model\.)?(mid_layer\.\d+|final_layer)\."), r"\1."),
]
CRITIC_NAMES: Rules = [
    (re.compile(r"^q1_model\."), "members.0.layers."),
    (re.compile(r"^q2_model\."), "members.1.layers."),
]


@dataclass(frozen=True)
class WeightFile:
    """One of the two files.

    Attributes:
        name: of what it holds, which its file's name begins with.
        rules: how its weights are renamed.
        layers: (dqlab's) lists of layers, beside which there may be no others; every second entry is a layer.
    """

    name: str
    rules: Rules
    layers: tuple[str, ...]

    def matches(self, names: Collection[str]) -> bool:
        """Whether any of these is the name of such a weight."""
        return any(renamed(name, self.rules) for name in names)


ACTOR = WeightFile("actor", ACTOR_NAMES, ("time_mlp", "mid_layer"))
CRITIC = WeightFile("critic", CRITIC_NAMES, ("members.0.layers", "members.1.layers"))


@dataclass(frozen=True)
class OfficialCheckpoint:
    """An official checkpoint.

    Attributes:
        stem: of the actor's file.
        weights: of `actor` and `critic`, under dqlab's names.
        betas: (N,) float64, of the actor's noise schedule; empty where its file has none.
        state_dim, action_dim: S and A.
        settings: what the files say of the agent, as gin parameters.
    """

    stem: str
    weights: dict[str, Weights]
    betas: Tensor
    state_dim: int
    action_dim: int
    settings: dict[str, Any]

    @property
    def schedule(self) -> str:
        """The schedule in words."""
        if not len(self.betas):
            return "a schedule that the file does not tell"
        name = "betas of its own" if OWN in self.settings else self.settings["DiffusionPolicy.schedule"]
        return f"N = {len(self.betas)}, {name}"

    def has_betas(self, betas: Sequence[float]) -> bool:
        """Whether a schedule is that of the file."""
        return _same(torch.tensor(betas, dtype=torch.float64), self.betas)


def load_checkpoint(folder: Path, epoch: str | None = None) -> OfficialCheckpoint:
    """Read `actor[_EPOCH].pth` and `critic[_EPOCH].pth` of a folder, without running anything in them.

    Args:
        folder: where the official code saved them.
        epoch: which ones; the latest by default, by its number.

    Raises:
        RunError: no such files; or they cannot be read, or hold something else.
    """
    actor_file, critic_file = _pair(folder, epoch)
    actor, critic = _weights(actor_file, ACTOR), _weights(critic_file, CRITIC)
    buffers = {name: value for name, value in actor.items() if not renamed(name, ACTOR.rules)}
    weights = {
        "actor": _complete(actor_file, {name: actor[name] for name in actor.keys() - buffers.keys()}, ACTOR),
        "critic": _complete(critic_file, critic, CRITIC),
    }
    betas = _schedule(actor_file, buffers)
    action_dim = len(weights["actor"]["final_layer.bias"])
    state_dim = weights["critic"]["members.0.layers.0.weight"].shape[1] - action_dim
    settings = {**_widths(weights["actor"], weights["critic"]), **_as_settings(betas)}
    return OfficialCheckpoint(actor_file.stem, weights, betas, state_dim, action_dim, settings)


def _pair(folder: Path, epoch: str | None) -> tuple[Path, Path]:
    """The files of an epoch, or of the latest."""
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}: --official wants the one with the official actor[_EPOCH].pth.")
    numbered = [path for path in folder.glob("actor*.pth") if re.fullmatch(r"actor(_\d+)?", path.stem)]
    wanted = [folder / f"actor_{epoch}.pth"] if epoch is not None else sorted(numbered, key=_epoch_of)
    if not wanted or not wanted[-1].exists():
        there = sorted(path.name for path in folder.glob("*.pth"))
        named = f"There is {', '.join(map(shown, there[:6]))}." if there else "There is no .pth file at all."
        name = f"actor_{epoch}.pth" if epoch is not None else "actor[_EPOCH].pth"
        raise RunError(f"No official checkpoint ({name}) in {folder}. {named}")
    actor = wanted[-1]
    critic = actor.with_name(actor.name.replace("actor", "critic", 1))
    if not critic.exists():
        raise RunError(f"{critic} is missing: an official checkpoint has an actor and a critic file.")
    return actor, critic


def _epoch_of(path: Path) -> int:
    numbers = re.findall(r"_(\d+)$", path.stem)
    return int(numbers[0]) if numbers else -1


def _weights(path: Path, kind: WeightFile) -> dict[str, Tensor]:
    """The file's tensors, by the official code's names.

    Raises:
        RunError: it holds something else than such a network's.
    """
    held = _read(path)
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise RunError(f"{path} holds no state dict (names of weights, each with its tensor).")
    found = {WRAPPERS.sub("", str(name)): value.detach() for name, value in held.items()}
    if not kind.matches(found):
        other = CRITIC if kind is ACTOR else ACTOR
        names = f"its names are {', '.join(map(shown, list(found)[:3]))}{', ...' if len(found) > 3 else ''}"
        swapped = f"it has {other.name}'s weights. Have the two files' names been swapped?"
        instead = swapped if other.matches(found) else f"{names}."
        raise RunError(f"{path} holds no {kind.name} of the official code's: {instead}")
    for name, value in found.items():
        _check_tensor(f"{path}: {shown(name)}", value)
    return found


def _check_tensor(what: str, value: Tensor) -> None:
    """Refuse what is no plain array of finite numbers."""
    if value.layout != torch.strided or not value.is_floating_point():
        raise RunError(f"{what} is no array of floating-point numbers.")
    if not bool(value.isfinite().all()):
        raise RunError(f"{what} has values that are NaN or infinite.")


def _complete(path: Path, official: Mapping[str, Tensor], kind: WeightFile) -> Weights:
    """The weights under dqlab's names, all of them and no others.

    Raises:
        RunError: a name is missing, or none of the official code's; the message has the file and the name.
    """
    named = {renamed(name, kind.rules): name for name in official if renamed(name, kind.rules)}
    wanted = {f"{layer}.{kind_of}" for layer in _layers(named, kind) for kind_of in ("weight", "bias")}
    strange = sorted(set(official) - {named[name] for name in named.keys() & wanted})
    if strange:
        names = ", ".join(map(shown, strange[:4]))
        raise RunError(f"{path} has {names}: no names of the official {kind.name}'s. It is another network's.")
    if missing := sorted(wanted - named.keys()):
        raise RunError(f"{path} lacks {', '.join(missing[:4])} (dqlab's names) of the official {kind.name}'s weights.")
    weights = {name: official[named[name]] for name in sorted(wanted)}
    for name, value in weights.items():
        if value.ndim != (2 if name.endswith("weight") else 1) or 0 in value.shape:
            raise RunError(f"{path}: {shown(named[name])} has the shape {tuple(value.shape)}: no linear layer's.")
    return weights


def _layers(names: Collection[str], kind: WeightFile) -> set[str]:
    """The linear layers that there should be, by dqlab's names: each list without gaps, activations between them."""
    found = {f"{prefix}.{2 * place}" for prefix in kind.layers for place in range(_count(names, prefix))}
    return found | ({"final_layer"} if kind is ACTOR else set())


def _count(names: Collection[str], prefix: str) -> int:
    """The layers of a list up to its last one; at least the two of the official code's time embedding."""
    places = (re.match(rf"{re.escape(prefix)}\.(\d{{1,4}})\.", name) for name in names)
    return 1 + min(len(names), max([2, *(int(place[1]) for place in places if place)]) // 2)


def _widths(actor: Weights, critic: Weights) -> dict[str, int]:
    """Sizes of the networks, as gin parameters."""
    return {
        "MLPDenoiser.hidden_dim": actor["final_layer.weight"].shape[1],
        "MLPDenoiser.time_dim": len(actor["time_mlp.2.bias"]),
        "MLPDenoiser.depth": _count(actor, "mid_layer"),
        "TwinCritic.hidden_dim": len(critic["members.0.layers.0.bias"]),
        "TwinCritic.depth": _count(critic, "members.0.layers") - 1,
    }


def _schedule(path: Path, buffers: Mapping[str, Tensor]) -> Tensor:
    """The betas (N,) float64 among an actor's buffers, none if there are no buffers.

    Raises:
        RunError: they are no schedule, or missing; or a buffer is none of the official actor's.
    """
    if not buffers:
        return torch.empty(0, dtype=torch.float64)
    if strange := sorted(set(buffers) - BUFFERS):
        raise RunError(f"{path} has {shown(strange[0])}: no name of the official actor's. It is another network's.")
    betas = buffers.get("betas", torch.empty(0)).double()
    if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
        fault = "has no betas" if "betas" not in buffers else "has betas that are no schedule, numbers between 0 and 1"
        raise RunError(f"{path} {fault}, though it has {', '.join(map(shown, sorted(buffers)[:4]))}.")
    return betas


def _as_settings(betas: Tensor) -> dict[str, Any]:
    """A schedule as gin parameters: by its name, or its betas where it is none of the official code's."""
    if not len(betas):
        return {}
    known = next((name for name in OFFICIAL_SCHEDULES if _is(name, betas)), "")
    own = {} if known else {OWN: tuple(betas.tolist())}
    return {"DiffusionPolicy.n_timesteps": len(betas), "DiffusionPolicy.schedule": known or "listed", **own}


def _is(schedule: str, betas: Tensor) -> bool:
    try:
        return _same(build_betas(schedule, len(betas)), betas)
    except ConfigError:  # gin files may set its parameters, and wrongly
        return False


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two schedules are one, but for the official code's single precision."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-6)


_words = reprlib.Repr()
_words.maxstring = 80
shown = _words.repr
"""A name out of a file, as it may be printed: in quotes, of bounded length, without control characters."""


def _read(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch reads a flipped bit as another weight
                raise zipfile.BadZipFile(f"{damaged} is not what its checksum says")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch and zipfile raise many kinds for a damaged file, or one with code in it
        raise RunError(
            f"{path} is damaged, or no plain state dict that torch.save has written ({type(error).__name__}). Copy it "
            "anew; nothing in a file is run."
        ) from error


WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod)\.")
"""What DataParallel and torch.compile put before the names of what they wrap."""


def renamed(name: str, rules: Rules) -> str:
    """dqlab's name of an official weight; empty where no rule matches."""
    return next((pattern.sub(new, name) for pattern, new in rules if pattern.match(name)), "")
