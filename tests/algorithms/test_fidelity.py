"""Diffusion-QL against the official agent's recorded updates, and against the algorithm in one file, examples/."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusion_ql as plain
import numpy as np
import pytest
import torch
from recorded_updates import official_weights, replay_recording

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import TwinCritic
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.official import ACTOR, CRITIC
from dqlab.testing import make_batch, make_noise
from dqlab.training import Pack

S, A, B = 5, 3, 16
LOSSES = ("critic/loss", "actor/bc_loss", "actor/q_loss", "actor/loss")
GROUPS = {"actor": "actor", "ema": "actor_ema", "critic": "critic", "target": "critic_target"}


def test_twenty_updates_of_the_official_agent(shared: Path) -> None:
    path = shared / "golden-updates" / "walker2d.npz"
    data = np.load(path)
    replay = replay_recording(path)
    assert np.abs(replay.losses.numpy() - data["losses"]).max() < 1e-9
    for theirs, ours in GROUPS.items():
        kind = CRITIC if "critic" in ours else ACTOR
        prefix = f"final/{theirs}/"
        named = {key.removeprefix(prefix): torch.as_tensor(data[key]) for key in data.files if key.startswith(prefix)}
        expected = official_weights(named, kind)
        assert set(expected) == set(replay.weights[ours])
        for name, figures in expected.items():  # sum, norm, first 16 entries
            values = replay.weights[ours][name].flatten()
            measured = torch.cat([values.sum()[None], values.norm()[None], values[:16]])
            assert torch.allclose(measured, figures, rtol=0, atol=1e-9), f"{theirs} {name}"


def both(dtype: torch.dtype, **changes: Any) -> tuple[Pack, plain.DiffusionQL]:
    """The same agent twice: dqlab's pack of one replica, and the example's with the same initial weights."""
    settings = plain.Settings(**({"hidden": 24, "ema_start": 5} | changes))
    denoiser = partial(MLPDenoiser, hidden_dim=settings.hidden)
    algorithm = DiffusionQL(
        policy=partial(DiffusionPolicy, n_timesteps=settings.n, schedule=settings.schedule, denoiser=denoiser),
        critic=partial(TwinCritic, hidden_dim=settings.hidden),
        eta=settings.eta,
        discount=settings.discount,
        grad_norm=settings.grad_norm,
        max_q_backup=settings.max_q_backup,
        learning_rate=settings.actor_lr,
        ema_start=settings.ema_start,
    )
    pack = Pack([algorithm], Dims(S, A), [7], dtype=dtype)
    actor, critic = plain.Actor(S, A, settings).to(dtype), plain.Critic(S, A, settings.hidden).to(dtype)
    for module, values in ((actor, pack.weights(0)["actor"]), (critic, pack.weights(0)["critic"])):
        for parameter, value in zip(module.parameters(), values.values(), strict=True):  # by order: names differ
            parameter.data.copy_(value)
    return pack, plain.DiffusionQL(actor, critic, settings)


def step_both(pack: Pack, agent: plain.DiffusionQL, step: int, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    batch = make_batch(pack.dims, B, seed=step, dtype=dtype)
    noise = make_noise(pack.algorithm.update_noise(pack.dims, B), seed=step, dtype=dtype)
    theirs = agent.update({k: v[0] for k, v in batch._asdict().items()}, {k: v[0] for k, v in noise.items()})
    info = pack.update(batch, noise)
    return [float(info[name][0]) for name in LOSSES], list(theirs.values())


VARIANTS = [
    {},
    {"max_q_backup": True},
    {"n": 2, "schedule": "linear"},
    {"n": 10, "schedule": "cosine", "eta": 2.5},
    {"grad_norm": 0.0},
    {"grad_norm": 0.05, "actor_lr": 1e-3, "discount": 0.9},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_twenty_updates_of_the_plain_rendering_in_float64(changes: dict[str, Any]) -> None:
    pack, agent = both(torch.float64, **changes)
    for step in range(20):
        ours, theirs = step_both(pack, agent, step, torch.float64)
        assert ours == pytest.approx(theirs, abs=1e-9)
    weights = pack.weights(0)
    for ours_named, module in [
        (weights["actor"], agent.actor),
        (weights["actor_ema"], agent.actor_ema),
        (weights["critic"], agent.critic),
        (weights["critic_target"], agent.critic_target),
    ]:
        for (name, value), wanted in zip(ours_named.items(), module.parameters(), strict=True):
            assert float((value - wanted).detach().abs().max()) < 1e-9, name
    assert not torch.equal(weights["actor_ema"]["final_layer.bias"], weights["actor"]["final_layer.bias"])


def test_two_hundred_updates_of_the_plain_rendering_in_float32() -> None:
    pack, agent = both(torch.float32, ema_start=50)
    for step in range(200):
        ours, theirs = step_both(pack, agent, step, torch.float32)
        assert ours == pytest.approx(theirs, abs=1e-4, rel=1e-4), f"update {step}"


def official_names(agent: plain.DiffusionQL) -> dict[str, dict[str, torch.Tensor]]:
    """The example's parameters, whose names are the official code's."""
    networks = {"actor": agent.actor, "ema": agent.actor_ema, "critic": agent.critic, "target": agent.critic_target}
    return {
        group: {name.removeprefix("model."): value.detach().clone() for name, value in network.named_parameters()}
        for group, network in networks.items()
    }


@pytest.mark.parametrize(("max_q_backup", "candidates_axis"), [(False, False), (True, False), (True, True)])
def test_recordings_of_other_sizes_replay(tmp_path: Path, max_q_backup: bool, candidates_axis: bool) -> None:
    """Seven updates of the plain rendering written as a recording: N = 3, linear, 12 wide, late moving average."""
    changes: dict[str, Any] = {"n": 3, "schedule": "linear", "eta": 0.7, "grad_norm": 0.3, "ema_start": 2}
    pack, agent = both(torch.float64, hidden=12, max_q_backup=max_q_backup, **changes)
    names = official_names(agent)
    data: dict[str, Any] = {f"init/{g}/{k}": v.numpy() for g in ("actor", "critic") for k, v in names[g].items()}
    meta = {"S": S, "A": A, "N": 3, "B": B, "steps": 7, "beta": "linear", "grad_norm": 0.3, "eta": 0.7}
    meta |= {"actor_lr": 3e-4, "critic_lr": 3e-4, "max_q_backup": max_q_backup, "ema_decay": 0.995, "ema_start": 2}
    data["meta"] = str(meta | {"ema_every": 5, "tau": 0.005, "discount": 0.99, "max_action": 1.0})
    columns: dict[str, list[np.ndarray]] = {}
    losses = []
    for step in range(7):
        batch = make_batch(pack.dims, B, seed=step)
        z = {k: v[0] for k, v in make_noise(pack.algorithm.update_noise(pack.dims, B), seed=step).items()}
        losses.append(list(agent.update({k: v[0] for k, v in batch._asdict().items()}, z).values()))
        row = {k: getattr(batch, k)[0] for k in ("state", "action", "next_state")}
        row |= {"reward": batch.reward[0, :, None], "not_done": 1 - batch.terminal[0, :, None]}
        row |= {k: z[k] for k in ("target_start", "target_noise", "actor_start", "actor_noise")}
        row |= {"t": z["bc_t"], "eps": z["bc_eps"], "q1_ascended": z["coin"] == 0}
        if candidates_axis and max_q_backup:
            row["target_start"] = row["target_start"].view(B, 10, A)
            row["target_noise"] = row["target_noise"].view(3, B, 10, A)
        for key, value in row.items():
            columns.setdefault(key, []).append(value.numpy())
    path = tmp_path / "recording.npz"
    np.savez(path, **data, **{key: np.stack(values) for key, values in columns.items()})
    replay = replay_recording(str(path))
    assert np.abs(replay.losses.numpy() - np.array(losses)).max() < 1e-9
    for theirs, values in official_names(agent).items():
        ours = replay.weights[GROUPS[theirs]]
        named = official_weights(values, CRITIC if theirs in ("critic", "target") else ACTOR)
        assert all(float((ours[name] - value).abs().max()) < 1e-9 for name, value in named.items())


def test_the_plain_rendering_is_not_trivially_equal() -> None:
    """A different eta must be seen: the comparison above can fail."""
    pack, agent = both(torch.float64)
    agent.settings = replace(agent.settings, eta=1.1)
    ours, theirs = step_both(pack, agent, 0, torch.float64)
    assert ours[3] != pytest.approx(theirs[3], abs=1e-3)
