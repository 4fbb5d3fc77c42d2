"""Execution modes agree with each other, for every algorithm; nothing is compiled twice; `auto` says what it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gin
import pytest
import torch
from conftest import PLAIN, ROOT, SHALLOW, SMALL
from made_updates import CPU, DIMS, largest_difference, random_transitions
from torch._dynamo.utils import counters

from dqlab.algorithms import algorithms
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.errors import ConfigError
from dqlab.training import Pack
from dqlab.training.execution import program
from dqlab.training.execution.modes import Auto, Eager, execution_modes, name_of
from dqlab.training.execution.program import Program, compile_program
from dqlab.training.programs import SamplerCore, Step

CUDA = torch.device("cuda")
MODES = [
    pytest.param(device, name, marks=[pytest.mark.gpu] if device == CUDA else [])
    for device in (CPU, CUDA)
    for name in execution_modes.names()
    if name != "auto" and not execution_modes.get(name)().unavailable_reason(device)
]
"""`auto` is one of the others, as its own tests say."""
OTHERS = [mode for mode in MODES if mode.values[1] != "eager"]


@pytest.fixture(autouse=True)
def short_chains() -> None:
    """Two diffusion steps instead of five, and an average that moves early: less to compile, nothing left out."""
    gin.parse_config([*SMALL, "DiffusionQL.ema_start = 7"])


def trained(name: str, mode: str, device: torch.device, dtype: torch.dtype, *seeds: int, **when: int) -> Step:
    """After `steps` updates, 50 by default, from number `first` on."""
    seeds, steps = seeds or (1,), when.get("steps", 50)
    pack = Pack([algorithms.get(name)()] * len(seeds), DIMS, seeds, dtype=dtype, device=device)
    pack.state.step = when.get("first", 0)
    step = Step(pack, random_transitions(400, dtype, device), 32, execution_modes.get(mode)(), steps)
    for _ in range(steps):
        step()
    return step


def difference(one: Step, other: Step, row: int = 0, other_row: int = 0) -> float:
    return largest_difference(one.pack.weights(row), other.pack.weights(other_row))


@pytest.mark.parametrize("name", sorted(set(algorithms.names()) - {"bc", "qam"}))
@pytest.mark.parametrize(("device", "mode"), OTHERS, ids=str)
def test_every_mode_agrees_with_eager(device: torch.device, mode: str, name: str) -> None:
    """Weights, averages and targets after updates 80 to 129, and the losses reported on the way, in float64.

    Noise is drawn anew at 100, and phases of training end there. All of `qam`'s losses are among those of `qam_edit`.
    """
    edges = ["DTQL.pretrain_steps = 100", "BDPO.pretrain_steps = 100", "BDPO.warmup_steps = 0"]
    gin.parse_config([*SHALLOW, *edges, *(PLAIN if name != "diffusion_ql" else [])])
    before = counters["aot_autograd"]["total"]
    ours, eager = (trained(name, each, device, torch.float64, first=80) for each in (mode, "eager"))
    if mode == "compile" and device == CPU:
        assert counters["aot_autograd"]["total"] - before == len(ours.pack.kinds(range(80, 130))), (
            "one a kind of update"
        )
    assert difference(ours, eager) <= 1e-9
    assert difference(ours, trained(name, "eager", device, torch.float64, steps=0)) > 1e-3
    sums, wanted = ours.take_sums(), eager.take_sums()
    torch.testing.assert_close(sums, wanted, rtol=1e-8, atol=0)


def test_nothing_is_compiled_twice_in_a_run() -> None:
    """Chunks of noise, learning rates, moving averages and evaluations change; the compiled programs do not.

    Compiling changes nothing, and a replica is as it is alone.
    """
    gin.parse_config([*SHALLOW, *PLAIN])
    alone, fresh = (trained("bc", "eager", CPU, torch.float32, steps=steps) for steps in (110, 0))
    before = counters["aot_autograd"]["total"]
    step = trained("bc", "compile", CPU, torch.float32, 0, 1, 2, steps=0)
    core = SamplerCore(step.pack, 2, step.mode)
    compiled = counters["aot_autograd"]["total"] - before
    assert compiled == 2, "one program for updates and one for acting, whatever the number of replicas"
    assert difference(step, fresh, 1) == float(step.sums.abs().sum()) == 0
    stream = core.noise_stream("test")
    for time in range(110):
        step()
        if time % 40 == 0:
            core.sample_actions(torch.zeros(3, 2, DIMS.state), stream.at(time))
    assert counters["aot_autograd"]["total"] - before == compiled
    assert difference(step, alone, 1) <= 1e-4


@pytest.mark.parametrize(("device", "mode"), [mode for mode in MODES if mode.values[0] == CUDA], ids=str)
def test_a_replica_is_the_same_in_a_pack(device: torch.device, mode: str) -> None:
    """And so behaviour cloning agrees with eager in every mode."""
    alone = trained("bc", "eager", device, torch.float64)
    together = trained("bc", mode, device, torch.float64, 0, 1, 2)
    assert difference(alone, together, 0, 1) <= 1e-9


@pytest.mark.parametrize(("device", "mode"), MODES, ids=str)
def test_the_sampler_core_is_the_pack_acting(device: torch.device, mode: str) -> None:
    """Lane by lane: 7 states are lanes of 4 and 3 on a CPU, with one to spare."""
    gin.parse_config(SHALLOW)
    pack = Pack([DiffusionQL()] * 2, DIMS, [3, 4], dtype=torch.float64, device=device)
    core = SamplerCore(pack, 7, execution_modes.get(mode)().resolve(device))
    lanes, size = (2, 4) if device == CPU else (1, 7)
    stream = core.noise_stream("test")
    generator = torch.Generator().manual_seed(0)
    for time in (0, 25):
        state, noise = torch.randn(2, 7, DIMS.state, generator=generator, dtype=torch.float64), stream.at(time)
        actions = core.sample_actions(state, noise).clone()
        assert not actions.requires_grad
        padded = torch.nn.functional.pad(state.to(device), (0, 0, 0, lanes * size - 7)).chunk(lanes, dim=1)
        parts = [
            pack.act(part, {key: each[:, lane] for key, each in noise.items()}) for lane, part in enumerate(padded)
        ]
        torch.testing.assert_close(actions, torch.cat(parts, dim=1)[:, :7], rtol=0, atol=1e-9)
    pack.load(0, Pack([DiffusionQL()], DIMS, [9], dtype=torch.float64, device=device).weights(0))
    changed = core.sample_actions(state, stream.at(25))
    assert not torch.allclose(changed[0], actions[0]), "it acts with the networks as they are now"
    assert torch.equal(changed[1], actions[1])


CACHED = """
from dqlab.training.execution.modes import Compile
from dqlab.training.execution.program import Program
import torch
from torch._dynamo.utils import counters
run = Compile()(Program(lambda tensors: (tensors["x"] * 3).cos().sum(-1), {"x": torch.ones(5, 7)}))
assert torch.allclose(run(), torch.tensor(3.0).cos() * 7)
print("hits", counters["inductor"]["fxgraph_cache_hit"])
"""
"""dqlab first: PyTorch's compiler chooses a folder as soon as it is imported."""


def test_compiled_code_is_kept_between_runs(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "TORCHINDUCTOR_VEC_ISA_OK": "1"}  # the latter saves trials of the compiler
    command = [sys.executable, "-c", CACHED]
    for hits in (0, 1):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"hits {hits}"
        assert list((tmp_path / "dqlab" / "inductor").rglob("*")), "the cache is where it is said to be"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with all that compiling needs, the only place where it is looked for."""
    for name in ("g++", "gcc", "Python.h", "triton"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(program, "find_spec", lambda name: (tmp_path / name).exists() or None)
    monkeypatch.setattr(program.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_auto_compiles_where_it_pays_and_says_why(tools: Path) -> None:
    work = [(CPU, 2.9e12), (CPU, 3.1e12), (CUDA, 1e13), (CUDA, 1e15), (torch.device("meta"), 1e15)]
    found = [Auto().resolve(*each) for each in work]
    assert [*map(name_of, found)] == ["eager", "compile", "cuda_graph", "compile+cuda_graph", "eager"]
    assert found[0].reason == "2.9 TFLOP to do; compiling pays from 3 on"


@pytest.mark.parametrize(
    ("lacking", "said", "device", "quick", "compiling"),
    [
        ("g++", "a C++ compiler", CPU, "eager", ["compile"]),
        ("gcc", "a C compiler", CUDA, "cuda_graph", ["compile", "compile+cuda_graph"]),
        ("Python.h", "Python.h", CUDA, "cuda_graph", ["compile", "compile+cuda_graph"]),
        ("triton", "Triton", CUDA, "cuda_graph", ["compile", "compile+cuda_graph"]),
        ("", "a CUDA device", CPU, "", ["cuda_graph", "compile+cuda_graph"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_auto_does_without_what_others_need(
    tools: Path, lacking: str, said: str, device: torch.device, quick: str, compiling: list[str]
) -> None:
    """And says why; who insists on another mode is told what to install."""
    if lacking:
        (tools / lacking).unlink()
        settled = Auto().resolve(device, 1e15)
        assert name_of(settled) == quick
        assert said in settled.reason
    for mode in compiling:
        with pytest.raises(ConfigError, match=rf"'{re.escape(mode)}' needs .*{re.escape(said)}.*execution='auto'"):
            execution_modes.get(mode)().resolve(device, 1.0)


def test_a_program_that_looks_at_values_is_told_of() -> None:
    program = Program(lambda tensors: tensors["x"] if tensors["x"].sum() > 0 else -tensors["x"], {"x": torch.ones(3)})
    with pytest.raises(ConfigError, match=r"cannot be compiled here.*execution='eager'"):
        compile_program(program)


def test_a_step_is_an_update() -> None:
    """The program reads the same noise and batches as one who injects them, across a chunk's edge and from any step."""
    data = random_transitions(400)

    def begun() -> Step:
        pack = Pack([DiffusionQL()], DIMS, [1], dtype=torch.float64)
        pack.state.step = 95
        return Step(pack, data, 32, Eager())

    one, two, by_hand = begun(), begun(), begun()
    for number in range(95, 105):
        one()
        noise = by_hand._stream.at(number)
        by_hand.pack.update(data.batch(noise.pop("batch_index")), noise)
        two = two if number % 4 else Step(two.pack, data, 32, Eager())
        two()
    assert difference(one, by_hand) == difference(one, two) == 0
    assert difference(one, begun()) > 1e-3
