"""The official code's checkpoints: names, files, and the same actions and values from the same weights."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusion_ql as plain
import pytest
import torch
from conftest import Done, Run, refused

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.errors import RunError
from dqlab.policies.base import Dims
from dqlab.runs.load_policy import read_official
from dqlab.training import Pack

State = dict[str, Any]


def buffers(betas: list[float]) -> State:
    """A schedule as the official code registers it, in single precision: some of it."""
    single = torch.tensor(betas, dtype=torch.float32)
    abar = torch.cumprod(1 - single, 0)
    return {"betas": single, "alphas_cumprod": abar, "sqrt_recip_alphas_cumprod": torch.sqrt(1 / abar)}


def save_official(
    folder: Path,
    epoch: str = "",
    of_actor: Callable[[State], Any] = OrderedDict,
    of_critic: Callable[[State], Any] = OrderedDict,
    n: int = 5,
    schedule: str = "vp",
    hidden: int = 8,
) -> tuple[plain.Actor, plain.Critic]:
    """Write the two files as the official code does; their contents may be changed."""
    torch.manual_seed(0)
    actor = plain.Actor(17, 6, plain.Settings(hidden=hidden, n=n, schedule=schedule))
    critic = plain.Critic(17, 6, hidden)
    torch.save(of_actor(actor.state_dict() | buffers(list(actor.beta))), folder / f"actor{epoch}.pth")
    torch.save(of_critic(critic.state_dict()), folder / f"critic{epoch}.pth")
    return actor, critic


def test_the_same_numbers_from_the_same_weights(tmp_path: Path) -> None:
    actor, q = save_official(tmp_path, "_50", hidden=256)
    found = read_official(tmp_path)
    assert (found.stem, found.dims, found.schedule) == ("actor_50", (17, 6), "N = 5, vp")
    pack = Pack([DiffusionQL()], Dims(17, 6), [0])
    pack.load(0, found.weights)
    state, x, t = torch.randn(9, 17), torch.randn(9, 6), torch.arange(9) % 5
    ours = pack.layouts["actor"].bind(pack.state.parameters["actor"][0])(x, t, state)
    assert torch.allclose(ours, actor.model(x, t, state), atol=1e-6)
    values = pack.layouts["critic"].bind(pack.state.targets["critic_target"][0])(state, x)
    assert torch.allclose(values[0], q(state, x)[0], atol=1e-6)


@pytest.mark.parametrize("schedule", ["vp", "linear", "cosine"])
@pytest.mark.parametrize("n", [2, 1000])
def test_the_schedule_is_read(tmp_path: Path, n: int, schedule: str) -> None:
    """Each of the official code's, its single precision notwithstanding."""
    save_official(tmp_path, n=n, schedule=schedule)
    found = read_official(tmp_path)
    assert found.schedule == f"N = {n}, {schedule}"
    assert found.settings["DiffusionPolicy.n_timesteps"] == n
    assert found.settings["MLPDenoiser.hidden_dim"] == found.settings["TwinCritic.hidden_dim"] == 8


def test_betas_of_its_own(tmp_path: Path) -> None:
    mine = [0.1, 0.2, 0.3]
    save_official(tmp_path, "", lambda state: state | buffers(mine))
    found = read_official(tmp_path)
    assert found.schedule == "N = 3, betas of its own"
    assert found.settings["DiffusionPolicy.schedule"] == "listed"
    assert found.settings["listed.betas"] == pytest.approx(mine, rel=1e-6)


def test_the_latest_full_pair(tmp_path: Path) -> None:
    """By number, not by letters; averages of weights, which the official code does not act by, are no epochs."""
    for epoch in ("_50", "_1000", "_950"):
        save_official(tmp_path, epoch)
    for name in ("actor_ema_2000.pth", "actor_target_3000.pth"):
        (tmp_path / name).write_bytes(b"")
    assert read_official(tmp_path).stem == "actor_1000"
    assert read_official(tmp_path, "50").stem == "actor_50"


def without(part: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if part not in name}


def adding(name: str, value: Any) -> Callable[[State], State]:
    return lambda state: state | {name: value}


class Evil:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import test_official; test_official.Evil.ran = True",)


def flipped(path: Path) -> None:
    """One bit of a weight."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["q1_model.0.weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


def swapped(path: Path) -> None:
    actor, critic = path.with_name("actor.pth").read_bytes(), path.read_bytes()
    path.with_name("actor.pth").write_bytes(critic)
    path.write_bytes(actor)


SAME = OrderedDict
OLD = {"_use_new_zipfile_serialization": False}
DAMAGE: dict[str, tuple[Callable[[State], Any], Callable[[State], Any], str]] = {
    "a list": (lambda state: [1, 2], SAME, r"actor\.pth holds no state dict"),
    "numbers for names": (lambda state: {1: torch.ones(2)}, SAME, r"actor\.pth has 1"),
    "a number among names": (adding("model.mid_layer.0.weight", 3), SAME, r"actor\.pth holds no state dict"),
    "a name more": (adding("model.extra\x1b[31m", torch.ones(1)), SAME, r"actor\.pth has model\.extra\\x1b"),
    "a layer more": (SAME, adding("q1_model.9.weight", torch.ones(1, 1)), r"critic\.pth .*members\.0\.layers"),
    "a name less": (SAME, without("q2_model.0.b"), r"critic.*layers\.0\.bias"),
    "no layer": (without("final_layer.w"), SAME, r"actor\.pth .*'final_layer\.weight'"),
    "betas of 0": (adding("betas", torch.zeros(5)), SAME, r"betas that are no schedule"),
    "a NaN": (adding("model.final_layer.bias", torch.full((6,), math.nan)), SAME, r"bias is no array of"),
}
BYTES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "swapped": (swapped, r"actor\.pth has .*q1_model\.0\.weight.* are the two swapped"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:900]), "is damaged"),
    "a flipped bit of a weight": (flipped, "is damaged"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "code": (lambda path: torch.save({"x": Evil()}, path), "no plain state dict .* nothing in a file is run"),
    "old": (lambda path: torch.save({}, path, **OLD), "is damaged, or no plain state dict"),
    "no critic": (lambda path: path.unlink(), r"critic\.pth is missing"),
}


@pytest.mark.parametrize("name", [*DAMAGE, *BYTES])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    of_actor, of_critic, message = DAMAGE.get(name, (SAME, SAME, ""))
    save_official(tmp_path, "", of_actor, of_critic)
    if name in BYTES:
        change, message = BYTES[name]
        change(tmp_path / "critic.pth")
    with pytest.raises(RunError, match=message) as caught:
        read_official(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)
    assert not Evil.ran


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"No official checkpoint .*no \.pth file at all"):
        read_official(tmp_path)
    (tmp_path / "actor_ema_5.pth").write_bytes(b"")
    with pytest.raises(RunError, match=r"No official checkpoint .*There is actor_ema_5\.pth"):
        read_official(tmp_path)
    with pytest.raises(RunError, match="There is no folder"):
        read_official(tmp_path / "actor.pth")


def scored(done: Done) -> str:
    """The row of numbers that an evaluation has printed."""
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if re.search(r"actor_\d+ +. +0 ", line))


def test_eval_of_an_official_checkpoint(in_process: Run, tmp_path: Path) -> None:
    """The file's N is what is run; saying the same changes nothing, saying another is refused, as is another task.

    Where the file does not tell its schedule it must be said.
    """
    save_official(tmp_path, "_100", n=10)
    evaluation = ("eval", "--official", ".", "--task", "walker2d-medium-expert-v2", "--episodes", "2")
    schedule = ("--set", "DiffusionPolicy.n_timesteps=10", "DiffusionPolicy.schedule=vp")
    done = in_process(*evaluation)
    assert "official checkpoint actor_100 (N = 10, vp)" in " ".join(done.stdout.split())
    assert scored(in_process(*evaluation, *schedule)) == scored(done)
    for setting, named in (
        ("DiffusionPolicy.n_timesteps=5", "n_timesteps=5 contradicts actor_100, which has 10"),
        ("DiffusionPolicy.schedule=cosine", "noise schedule that --set makes contradicts actor_100; it has N = 10, vp"),
        ("MLPDenoiser.hidden_dim=16", "hidden_dim=16 contradicts actor_100, which has 8"),
    ):
        refused(in_process(*evaluation, "--set", setting), named)
    refused(in_process("eval", "--official", ".", "--task", "hopper-medium-v2"), "hopper-medium-v2 has 11 and 3")
    save_official(tmp_path, "_100", lambda state: {name: state[name] for name in state if name[:6] == "model."}, n=10)
    refused(in_process(*evaluation), "does not tell its noise schedule")
    assert scored(in_process(*evaluation, *schedule)) == scored(done)
