"""Packs: the same alone as together (every algorithm's: the conformance suite); what differs in them; their noise;
what they take of a machine, against what PyTorch allocates. Adam and clipping: algorithms/test_fidelity.py.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gin
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import CPU, DIMS, largest_difference, random_transitions
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dqlab import machine
from dqlab.algorithms import Algorithm, algorithms
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.errors import ConfigError, RunError
from dqlab.networks.precision import precisions
from dqlab.noise import NoiseStream, gumbel, integers, normal
from dqlab.policies.base import Dims
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_varied
from dqlab.testing import check
from dqlab.training import Pack, Probe
from dqlab.training.execution.program import nested_tensors
from dqlab.training.probe import MemoryNeed, free_bytes, made_up_update

BASE = DiffusionQL(ema_start=5)


def train(each: list[Algorithm], seeds: list[int], dtype: torch.dtype, steps: int = 10, **options: Any) -> Pack:
    gin.parse_config(SMALL)
    pack, batch = Pack(each, DIMS, seeds, dtype=dtype, **options), 8
    specs = {**each[0].update_noise(DIMS, batch), "batch_index": integers(500, batch)}
    stream = NoiseStream(specs, tuple(seeds), "update", dtype=dtype)
    data = random_transitions(500, dtype)
    for step in range(steps):
        noise = stream.at(step)
        pack.update(data.batch(noise.pop("batch_index")), noise)
    return pack


@pytest.mark.parametrize(
    ("width", "groups", "dtype", "tolerance"),
    [
        (5, [5], torch.float64, 1e-9),
        (2, [2, 1, 2], torch.float64, 1e-9),
        (None, [1] * 5, torch.float64, 1e-9),
        (5, [5], torch.float32, 1e-4),
    ],
)
def test_packed_equals_alone(width: int | None, groups: list[int], dtype: torch.dtype, tolerance: float) -> None:
    """Another eta, discount, rate, bound or seed; under one vmap, in groups, one by one."""
    each: list[Algorithm] = [BASE, replace(BASE, eta=3.0), replace(BASE, discount=0.5, tau=0.1)]
    each += [replace(BASE, learning_rate=1e-3, grad_norm=0.01), BASE]
    seeds = [5, 5, 5, 5, 6]
    together = train(each, seeds, dtype, width=width)
    assert [group.stop - group.start for group in together.groups()] == groups
    for row, (algorithm, seed) in enumerate(zip(each, seeds, strict=True)):
        alone = train([algorithm], [seed], dtype)
        assert largest_difference(together.weights(row), alone.weights(0)) < tolerance
        assert row == 0 or largest_difference(together.weights(row), together.weights(0)) > 1e-5


def test_a_diverging_replica_leaves_those_computed_with_it_alone() -> None:
    """Under one vmap, as on a GPU."""
    broken = replace(BASE, learning_rate=1e30, grad_norm=0.0)
    together = train([BASE, broken, BASE], [0, 1, 2], torch.float64, width=3)
    without = train([BASE, BASE, BASE], [0, 1, 2], torch.float64, width=3)
    assert not torch.isfinite(together.state.parameters["actor"][1]).all()
    for row in (0, 2):
        assert largest_difference(together.weights(row), without.weights(row)) == 0


@dataclass(frozen=True)
class Shrunk(BehaviourCloning):
    """Acts by a share of the policy's actions."""

    share: float = 0.5

    def act(self, dims: Dims, nets: Any, state: Tensor, noise: Any) -> Tensor:
        return self.share * super().act(dims, nets, state, noise)


@dataclass(frozen=True)
class Structural(Shrunk):
    """Says so."""

    structural: ClassVar[tuple[str, ...]] = ("share",)


@pytest.mark.parametrize(("made", "said"), [(Shrunk, "self.share is read: read hyper"), (Structural, "")])
def test_the_suite_finds_a_shared_float_that_claims_to_differ(made: type[Shrunk], said: str) -> None:
    gin.parse_config(SMALL)
    algorithms.names()
    algorithms.add("made", made, summary="Made.", source="no paper")
    try:
        with pytest.raises(AssertionError, match=said) if said else nullcontext():
            check("algorithm", "made")
    finally:
        algorithms.remove("made")


def test_a_pack_refuses_to_vary_what_is_read_directly() -> None:
    """Before training, whether or not anybody ran the suite."""
    with pytest.raises(ConfigError, match="Shrunk reads self.share, .* or name it in Shrunk.structural"):
        check_varied([Shrunk(), Shrunk(share=0.6)], DIMS)
    check_varied([Shrunk(), Shrunk(learning_rate=0.6)], DIMS)
    with pytest.raises(ConfigError, match="scalar hyper-parameters only"):
        Pack([Structural(), Structural(share=0.6)], DIMS, [0, 1])


def test_bf16_rounds_products_and_nothing_else() -> None:
    """Losses differ by bfloat16's rounding (8 bits); they, parameters and moments stay float32. Full is the default."""
    default: Any = {"precision": precisions.get(Experiment("hopper-medium-v2").precision)()}
    assert default["precision"].float32_products == "highest"
    made: list[tuple[Pack, dict[str, Tensor]]] = []
    for chosen in ({}, default, {"precision": precisions.get("bf16")()}):
        pack = train([DiffusionQL()] * 2, [0, 1], torch.float32, steps=1, width=2, **chosen)
        made.append((pack, pack.losses(slice(0, 2), *made_up_update(pack, 64, 2))))
    (full, wanted), (_, same), (half, info) = made
    for name, value in info.items():
        assert torch.equal(same[name], wanted[name])
        assert value.dtype == torch.float32
        assert not torch.equal(value, wanted[name]), name
        assert torch.allclose(value, wanted[name], rtol=0.05, atol=0.02), name
    assert all(tensor.dtype == torch.float32 for tensor in half.state.parameters.values())
    assert all(tensor.dtype == torch.float32 for both in half.state.moments.values() for tensor in both)
    gradient, exact = half.state.moments["critic"][0], full.state.moments["critic"][0]
    assert float(torch.nn.functional.cosine_similarity(gradient, exact).min()) > 0.99
    assert "CUDA" in precisions.get("tf32")().unavailable_reason(CPU)


def test_injected_weights_come_back_and_targets_follow() -> None:
    before = torch.get_rng_state()
    source, pack = Pack([DiffusionQL()], DIMS, [1]), Pack([DiffusionQL()] * 2, DIMS, [2, 3])
    assert torch.equal(torch.get_rng_state(), before), "initial networks are drawn from their own seeds"
    weights = source.weights(0)
    pack.load(1, {"actor": weights["actor"], "critic": weights["critic"]})
    assert largest_difference(pack.weights(1), weights) == 0
    assert largest_difference(pack.weights(0), weights) > 0
    wrong = {**weights["actor"], "final_layer.bias": torch.zeros(3)}
    with pytest.raises(RunError, match=r"final_layer.bias: \(3,\) instead of \(6,\)"):
        pack.load(0, {"actor": wrong})
    del wrong["final_layer.bias"]
    with pytest.raises(RunError, match="final_layer.bias"):
        pack.load(0, {"actor": wrong})


def test_parameters_begin_where_tensor_cores_can_read_them() -> None:
    """Each at a multiple of 64 bytes from the first, whatever came before it; what lies between stays zero."""
    pack = train([DiffusionQL()] * 2, [0, 1], torch.float32, steps=3)
    for name, matrix in pack.state.parameters.items():
        layout = pack.layouts[name]
        for row in matrix:
            views = layout.unflatten(row)
            assert all((view.data_ptr() - matrix.data_ptr()) % 64 == 0 for view in views.values())
            assert torch.equal(layout.flatten(views), row)
    layout = pack.layouts["critic"]
    assert layout.size - sum(shape.numel() for shape in layout.shapes.values()) == 2 * 15  # the last biases are numbers


SPECS = {"eps": normal(3, 2), "t": integers(5, 4), "coin": integers(2), "g": gumbel(2)}


@settings(max_examples=15)
@given(step=st.integers(0, 500), seed=st.integers(0, 2**31))
def test_a_step_is_the_same_whatever_came_before(step: int, seed: int) -> None:
    """Alone or packed; another seed, stream or step, of the same chunk or not, is something else."""
    jumped = NoiseStream(SPECS, (seed,), "update", chunk=7).at(step)
    packed = NoiseStream(SPECS, (seed + 1, seed), "update", chunk=7)
    packed.at(max(step - 3, 0))
    for name, value in packed.at(step).items():
        assert torch.equal(value[1], jumped[name][0])
        assert value.shape == (2, *SPECS[name].shape)
    other = NoiseStream(SPECS, (seed,), "evaluation", chunk=7)
    others = [packed.at(step)["eps"][0], other.at(step)["eps"][0], *(packed.at(step + by)["eps"][1] for by in (1, 7))]
    assert not any(torch.equal(each, jumped["eps"][0]) for each in others)


def test_laws() -> None:
    """Moments of 40,000 draws: normal (0, 1), Gumbel (0.5772, pi^2 / 6), integers uniform."""
    specs = {"n": normal(400), "g": gumbel(400), "i": integers(5, 400)}
    stream = NoiseStream(specs, (0,), "laws", chunk=100)
    draws = {name: torch.stack([stream.at(step)[name] for step in range(100)]).double() for name in specs}
    assert abs(float(draws["n"].mean())) < 0.02
    assert abs(float(draws["n"].var()) - 1) < 0.03
    assert abs(float(draws["g"].mean()) - 0.5772) < 0.03
    assert abs(float(draws["g"].var()) - math.pi**2 / 6) < 0.08
    assert all(abs(float((draws["i"] == k).double().mean()) - 0.2) < 0.01 for k in range(5))


GIB = 2**30


def peak_of_an_update(pack: Pack, rows: int) -> int:
    """The largest sum of allocations minus releases while losses and gradients are computed."""
    batch, noise = made_up_update(pack, rows)
    pack.losses(slice(0, 1), batch, noise)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        pack.losses(slice(0, 1), batch, noise)
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def state_bytes(pack: Pack) -> int:
    state = pack.state
    return sum(tensor.nbytes for tensor in nested_tensors([state.parameters, state.moments, state.targets]))


@pytest.mark.parametrize("name", ["diffusion_ql", "fql", "mmd_ql"])
def test_working_memory_is_about_what_pytorch_allocates(name: str) -> None:
    """A joint update holds the gradients of all networks at once, and copies of what targets lag behind."""
    pack = Pack([algorithms.get(name)()], DIMS, [0])
    sizes = {network: matrix.nbytes for network, matrix in pack.state.parameters.items()}
    lagged = {target.source for target in pack.algorithm.targets().values() if target.lags}
    held = sum(sizes.values()) - max(sizes.values()) if pack.algorithm.joint_update else 0
    measured = peak_of_an_update(pack, 256) + held + sum(sizes[network] for network in lagged)
    told = Probe(pack.algorithm, DIMS, 256).memory.working - state_bytes(pack)
    assert measured <= told <= 2 * measured


def test_kept_memory_is_the_state_and_the_noise() -> None:
    """At batch 4: 100 steps of 2 x (24 + 120) + 24 floats, 4 timesteps, 1 coin, 4 indices. The paper's: below 60 MB."""
    noise = 100 * (4 * (2 * (24 + 120) + 24) + 8 * (4 + 1 + 4))
    assert Probe(DiffusionQL(), DIMS, 4).memory.kept == state_bytes(Pack([DiffusionQL()], DIMS, [0])) + noise
    told = Probe(DiffusionQL(), DIMS, 256).memory
    assert told.kept + told.working <= 60e6


def test_packs_are_split_where_they_do_not_fit_and_refused_where_they_cannot() -> None:
    """Of 10 GiB 9 count; 8 replicas keep 4, so 5 are left: two at a time of 2 GiB each, all eight of half a GiB."""
    assert MemoryNeed(kept=GIB // 2, working=2 * GIB).width(8, 10 * GIB) == 2
    assert MemoryNeed(kept=GIB // 2, working=GIB // 2).width(8, 10 * GIB) == 8
    with pytest.raises(ConfigError, match=r"8 replicas need 11\.11 GiB, of which 10\.00 GiB are free\. Train fewer"):
        MemoryNeed(kept=GIB, working=2 * GIB).width(8, 10 * GIB)


def test_free_memory_is_what_a_container_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are only cached do not count as used."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for name, text in {"current": "7000", "stat": "anon 5000\ninactive_file 2000\n", "max": "max"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert 2**20 < free_bytes(CPU) < 2**45
    for limit, free in (("9000", 4000), ("4000", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert free_bytes(CPU) == free


@pytest.mark.parametrize(("share", "free", "left"), [("", 70, 70), ("0.5", 70, 30), ("0.5", 20, 20), ("0.25", 70, 10)])
def test_packs_on_one_gpu_count_their_share(share: str, free: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GiB, of which this process holds 10: half are 40, so 30 more, if so much is free; less the libraries'."""
    if share:
        monkeypatch.setenv("DQLAB_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GIB)
    assert free_bytes(torch.device("cuda")) == left * GIB - 128 * 2**20


@pytest.mark.parametrize(("cores", "rows", "wanted"), [(8, 256, 1), (8, 2048, 2), (2, 10**6, 2), (1, 4096, 1)])
def test_threads_by_size(monkeypatch: pytest.MonkeyPatch, cores: int, rows: int, wanted: int) -> None:
    """Only the cores that this process may use count."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(100, 100 + cores)))
    assert machine.cores() == cores
    assert machine.threads_for(rows) == wanted
