"""The official code's checkpoints: names, files, and the same actions and values from the same weights."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import plain
import pytest
import torch

from dqlab import official
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.errors import RunError
from dqlab.policies.base import Dims
from dqlab.training.pack import Pack

HIDDEN = 256
ACTOR = {"t1": "time_mlp.1", "t2": "time_mlp.3", "l1": "mid_layer.0", "l2": "mid_layer.2", "l3": "mid_layer.4"}
ACTOR |= {"out": "final_layer"}


def save_official(folder: Path, epoch: str, seed: int = 0) -> tuple[plain.Actor, torch.nn.Module]:
    """Files as the official code writes them: `model.` prefix, schedule buffers among the weights."""
    torch.manual_seed(seed)
    actor, q = plain.Actor(17, 6, HIDDEN, 5, "vp"), plain.critic(17, 6, HIDDEN)
    state = {f"model.{ACTOR[name.split('.')[0]]}.{name.split('.')[1]}": v for name, v in actor.state_dict().items()}
    state |= {"betas": torch.zeros(5), "alphas_cumprod": torch.zeros(5), "posterior_mean_coef1": torch.zeros(5)}
    values = {f"{member}.{name}": v for member in ("q1_model", "q2_model") for name, v in q.state_dict().items()}
    torch.save(state, folder / f"actor{epoch}.pth")
    torch.save(values, folder / f"critic{epoch}.pth")
    return actor, q


def test_the_same_numbers_from_the_same_weights(tmp_path: Path) -> None:
    actor, q = save_official(tmp_path, "_50")
    weights, stem = official.load_checkpoint(tmp_path)
    assert stem == "actor_50"
    pack = Pack([DiffusionQL()], Dims(17, 6), [0])
    pack.load(0, weights)
    state, x, t = torch.randn(9, 17), torch.randn(9, 6), torch.arange(9) % 5
    ours = pack.layouts["actor"].bind(pack.state.parameters["actor"][0])(x, t, state)
    assert torch.allclose(ours, actor.eps(x, t, state), atol=1e-6)
    values = pack.layouts["critic"].bind(pack.state.targets["critic_target"][0])(state, x)
    assert torch.allclose(values[0], q(torch.cat([state, x], 1))[:, 0], atol=1e-6)


def test_the_latest_epoch_counts_as_a_number(tmp_path: Path) -> None:
    for epoch in ("_50", "_1000", "_950"):
        save_official(tmp_path, epoch)
    assert official.load_checkpoint(tmp_path)[1] == "actor_1000"
    assert official.load_checkpoint(tmp_path, "50")[1] == "actor_50"


def test_missing_and_unsafe_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No official checkpoint"):
        official.load_checkpoint(tmp_path)
    save_official(tmp_path, "")
    (tmp_path / "critic.pth").unlink()
    with pytest.raises(RunError, match=r"critic\.pth is missing"):
        official.load_checkpoint(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "critic.pth")
    with pytest.raises(RunError, match="not a plain state dict"):
        official.load_checkpoint(tmp_path)
    assert not Evil.ran


class Evil:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import test_official; test_official.Evil.ran = True",)


def test_eval_of_an_official_checkpoint(dqlab: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    save_official(tmp_path, "_100")
    done = dqlab("eval", "--official", ".", "--task", "walker2d-medium-expert-v2", "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert "official checkpoint actor_100" in done.stdout
    wrong = dqlab("eval", "--official", ".", "--task", "hopper-medium-v2")
    assert wrong.returncode == 2
    assert "do not fit MLPDenoiser" in wrong.stderr
