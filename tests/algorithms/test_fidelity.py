"""Diffusion-QL against the official agent's recorded updates, and against the same in one file and in JAX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusion_ql as plain
import numpy as np
import pytest
import torch
from conftest import ROOT
from made_updates import DIMS, random_transitions
from recorded_updates import official_weights, replay_recording
from torch import Tensor

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.noise import NoiseStream, integers
from dqlab.policies.base import Dims
from dqlab.runs.load_policy import ACTOR, CRITIC, Weights
from dqlab.testing import make_batch
from dqlab.training import Pack

S, A, B = 5, 3, 16
GROUPS = {"actor": "actor", "ema": "actor_ema", "critic": "critic", "target": "critic_target"}
"""Networks as recordings call them, and as dqlab does."""


def official(group: str, named: Weights) -> Weights:
    return official_weights(named, ACTOR if group in ("actor", "ema") else CRITIC)


def test_twenty_updates_of_the_official_agent(shared: Path) -> None:
    data = dict(np.load(shared / "golden-updates" / "walker2d.npz"))
    replay = replay_recording(data)
    assert np.abs(replay.losses.numpy() - data["losses"]).max() < 1e-9
    for theirs, ours in GROUPS.items():
        prefix = f"final/{theirs}/"
        named = {key.removeprefix(prefix): torch.as_tensor(data[key]) for key in data if key.startswith(prefix)}
        expected = official(theirs, named)
        assert set(expected) == set(replay.weights[ours])
        for name, figures in expected.items():  # sum, norm, first 16 entries
            values = replay.weights[ours][name].flatten()
            measured = torch.cat([values.sum()[None], values.norm()[None], values[:16]])
            assert torch.allclose(measured, figures, rtol=0, atol=1e-9), f"{theirs} {name}"


def weights_of(agent: plain.DiffusionQL) -> dict[str, Weights]:
    """The example's parameters, whose names are the official code's."""
    networks = {"actor": agent.actor, "ema": agent.actor_ema, "critic": agent.critic, "target": agent.critic_target}
    return {
        group: {name.removeprefix("model."): value.detach().clone() for name, value in network.named_parameters()}
        for group, network in networks.items()
    }


def record(settings: plain.Settings, steps: int, dtype: torch.dtype) -> tuple[dict[str, Any], plain.DiffusionQL]:
    """Updates of the plain rendering, in the layout of a recording of the official agent."""
    torch.manual_seed(7)
    actor, critic = plain.Actor(S, A, settings), plain.Critic(S, A, settings.hidden)
    agent = plain.DiffusionQL(actor.to(dtype), critic.to(dtype), settings)
    meta = {"S": S, "A": A, "B": B, "N": settings.n, "beta": settings.schedule, "steps": steps, "max_action": 1.0}
    meta |= {"ema_decay": 1 - settings.tau, **{name: value for name, value in vars(settings).items() if name != "n"}}
    initial = weights_of(agent)
    data: dict[str, Any] = {f"init/{g}/{k}": v for g in ("actor", "critic") for k, v in initial[g].items()}
    columns: dict[str, list[Tensor]] = {}
    for step in range(steps):
        batch = {name: value[0] for name, value in make_batch(Dims(S, A), B, seed=step, dtype=dtype)._asdict().items()}
        noise = plain.draw_noise(B, A, settings, torch.device("cpu"))
        noise = {name: value.to(dtype) if value.is_floating_point() else value for name, value in noise.items()}
        row = {"losses": torch.tensor(list(agent.update(batch, noise).values()), dtype=dtype), **batch, **noise}
        row |= {"not_done": 1 - row.pop("terminal"), "q1_ascended": row.pop("coin") == 0}
        row |= {"t": row.pop("bc_t"), "eps": row.pop("bc_eps")}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {"meta": str(meta), **data, **{name: torch.stack(values) for name, values in columns.items()}}, agent


VARIANTS: list[dict[str, Any]] = [
    {},
    {"max_q_backup": True},
    {"n": 2, "schedule": "linear", "hidden": 12},
    {"n": 10, "schedule": "cosine", "eta": 2.5},
    {"grad_norm": 0.0},
    {"grad_norm": 0.05, "actor_lr": 1e-3, "discount": 0.9},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_twenty_updates_of_the_plain_rendering(changes: dict[str, Any]) -> None:
    settings = plain.Settings(**{"hidden": 24, "ema_start": 5} | changes)
    data, agent = record(settings, 20, torch.float64)
    replay = replay_recording(data)
    assert float((replay.losses - data["losses"]).abs().max()) < 1e-9
    for theirs, named in weights_of(agent).items():
        for name, wanted in official(theirs, named).items():
            assert float((replay.weights[GROUPS[theirs]][name] - wanted).abs().max()) < 1e-9, name
    assert not torch.equal(agent.actor_ema.model.final_layer.bias, agent.actor.model.final_layer.bias)


def test_two_hundred_updates_of_the_plain_rendering_in_float32() -> None:
    data, _ = record(plain.Settings(hidden=24, ema_start=50), 200, torch.float32)
    replay = replay_recording(data, torch.float32)
    assert torch.allclose(replay.losses, data["losses"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("jax", reason="the extra bench-jax is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("baseline_jax")
    sys.modules.pop("baseline_jax")


def test_the_peer_makes_the_same_updates(peer: Any) -> None:
    """The benchmark's, in JAX: in float64, 20 updates around the step at which the actor's average begins to move."""
    import jax

    pack = Pack([DiffusionQL(grad_norm=1.0)], DIMS, [0], dtype=torch.float64)
    pack.state.step = first = 990
    data, specs = random_transitions(400), pack.algorithm.update_noise(DIMS, 32)
    stream = NoiseStream({**specs, "batch_index": integers(400, 32)}, (0,), "update", dtype=torch.float64)
    with jax.enable_x64(True):
        weights = {net: {k: v.numpy() for k, v in named.items()} for net, named in pack.weights(0).items()}
        state = peer.initial_state(weights["actor"], weights["critic"]) | {"step": jax.numpy.int32(first)}
        update = jax.jit(peer.update)
        for step in range(first, first + 20):
            noise = stream.at(step)
            batch = data.batch(noise.pop("batch_index"))
            plain = {name: value[0].numpy() for name, value in batch._asdict().items() if value is not None}
            state, losses = update(state, plain, {name: value[0].numpy() for name, value in noise.items()})
            info = pack.update(batch, noise)
            for name, value in losses.items():
                assert float(value) == pytest.approx(float(info[name]), abs=1e-9), name
    for net, named in pack.weights(0).items():
        for name, value in named.items():
            assert np.abs(value.numpy() - np.asarray(state[net][name])).max() < 1e-9, f"{net} {name}"
