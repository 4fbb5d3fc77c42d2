"""Recordings of the official agent's updates, and of its rivals': every weight, batch and random number of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED
from torch import Tensor

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.data import Batch
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import TwinCritic
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.load_policy import ACTOR, CRITIC, Rules, Weights, renamed
from dqlab.training import Pack


@dataclass(frozen=True)
class RecordingReplay:
    """What dqlab made of a recording.

    Attributes:
        losses: (steps, 4): critic, L_bc, L_q, actor.
        weights: `actor`, `actor_ema`, `critic`, `critic_target` after the last update, dqlab's names.
    """

    losses: Tensor
    weights: dict[str, Weights]


def replay_recording(recording: str | Path | Mapping[str, Any], dtype: torch.dtype = torch.float64) -> RecordingReplay:
    """Run `DiffusionQL` on the weights, batches and random numbers of a recording of the official agent.

    Args:
        recording: an .npz file or its contents. `meta`: a dict literal with the sizes S, A, N and B, `steps`, `beta`
            (schedule), `eta`, `grad_norm`, `actor_lr`, `critic_lr`, `tau`, `discount`, `ema_decay`, `ema_start`,
            `ema_every`, `max_q_backup`, `max_action`. `init/actor/...`, `init/critic/...`: official state dicts.
            With a leading axis of steps: `state`, `action`, `next_state` (B, .), `reward`, `not_done` (B, 1); `t` (B,),
            `eps` (B, A); `actor_start` (B, A), `actor_noise` (N, B, A); `target_start`, `target_noise` likewise, with
            max_q_backup for 10 B rows, a state's candidates side by side; `q1_ascended`: whether the actor
            ascended Q_1.
        dtype: precision of the replay.

    Returns:
        Losses of each update and the final weights.
    """
    data = dict(np.load(recording)) if isinstance(recording, (str, Path)) else recording
    meta = ast.literal_eval(str(data["meta"]))
    pack = _recorded_pack(meta, data, dtype)
    losses = []
    for step in range(meta["steps"]):
        info = pack.update(_recorded_batch(data, step, dtype), _recorded_noise(data, step, dtype))
        row = ("critic/loss", "actor/bc_loss", "actor/q_loss", "actor/loss")
        losses.append(torch.stack([info[name][0] for name in row]))
    return RecordingReplay(torch.stack(losses), pack.weights(0))


def _recorded_pack(meta: dict[str, Any], data: Mapping[str, Any], dtype: torch.dtype) -> Pack:
    weights = {
        group: {
            name.removeprefix(f"init/{group}/"): torch.as_tensor(value)
            for name, value in data.items()
            if name.startswith(f"init/{group}/")
        }
        for group in ("actor", "critic")
    }
    time_dim, width = len(weights["actor"]["time_mlp.3.bias"]), weights["actor"]["final_layer.weight"].shape[1]
    denoiser = partial(MLPDenoiser, hidden_dim=width, time_dim=time_dim)
    algorithm = DiffusionQL(
        policy=partial(DiffusionPolicy, n_timesteps=meta["N"], schedule=meta["beta"], denoiser=denoiser),
        critic=partial(TwinCritic, hidden_dim=len(weights["critic"]["q1_model.0.bias"])),
        learning_rate=float(meta["actor_lr"]),
        critic_learning_rate=float(meta["critic_lr"]),
        lr_schedule="constant",
        ema_rate=1 - float(meta["ema_decay"]),
        ema_every=meta["ema_every"],
        ema_start=meta["ema_start"],
        max_q_backup=bool(meta["max_q_backup"]),
        **{name: float(meta[name]) for name in ("eta", "discount", "tau", "grad_norm")},
    )
    pack = Pack([algorithm], Dims(meta["S"], meta["A"], float(meta["max_action"])), [0], dtype=dtype)
    rules = {"actor": ACTOR, "critic": CRITIC}
    pack.load(0, {group: official_weights(named, rules[group]) for group, named in weights.items()})
    return pack


def official_weights(official: Mapping[str, Tensor], rules: Rules) -> Weights:
    """An official state dict under dqlab's names; what no rule matches (schedule buffers) is dropped."""
    return {own: value for name, value in official.items() if (own := renamed(name, rules))}


def _recorded_batch(data: Mapping[str, Any], step: int, dtype: torch.dtype) -> Batch:
    def field(name: str) -> Tensor:
        return torch.as_tensor(data[name][step]).to(dtype).unsqueeze(0)

    reward, not_done = (field(name).reshape(1, -1) for name in ("reward", "not_done"))
    return Batch(field("state"), field("action"), reward, field("next_state"), 1 - not_done)


def _recorded_noise(data: Mapping[str, Any], step: int, dtype: torch.dtype) -> dict[str, Tensor]:
    names = {name: name for name in ("target_start", "target_noise", "actor_start", "actor_noise")}
    names |= {"bc_eps": "eps", "bc_t": "t"}
    noise = {ours: torch.as_tensor(data[theirs][step]).unsqueeze(0) for ours, theirs in names.items()}
    noise = {name: value.to(dtype) if value.is_floating_point() else value for name, value in noise.items()}
    return {**noise, "coin": torch.tensor([0 if data["q1_ascended"][step] else 1])}


def arrays(place: str, name: str) -> dict[str, Any]:
    """The contents of a recording of a rival's code, of those that lie `here` or of those in ../`shared`."""
    folder = ROOT / "tests" / "algorithms" / "golden" if place == "here" else SHARED / "golden-rivals"
    path = folder / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in np.load(path).items()}
