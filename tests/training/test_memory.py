"""What a pack is said to need, against what PyTorch allocates; packs that do not fit are split, or refused."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dqlab.algorithms import algorithms
from dqlab.errors import ConfigError
from dqlab.policies.base import Dims
from dqlab.training import Pack, Probe
from dqlab.training.execution.program import nested_tensors, tree_map
from dqlab.training.probe import MemoryNeed, free_bytes, made_up_update

DIMS = Dims(17, 6)
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


@pytest.mark.parametrize("name", ["diffusion_ql", "fql", "idql", "mmd_ql"])
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
    """Diffusion-QL at batch 4: 100 steps of 2 x (24 + 120) + 24 floats, 4 timesteps, 1 coin, 4 indices."""
    pack = Pack([algorithms.get("diffusion_ql")()], DIMS, [0])
    noise = 100 * (4 * (2 * (24 + 120) + 24) + 8 * (4 + 1 + 4))
    assert Probe(pack.algorithm, DIMS, 4).memory.kept == state_bytes(pack) + noise


def test_a_replica_of_the_paper_takes_less_than_60_megabytes() -> None:
    told = Probe(algorithms.get("diffusion_ql")(), DIMS, 256).memory
    assert told.kept + told.working <= 60e6


def test_packs_are_split_where_they_do_not_fit() -> None:
    """Of 10 GiB 9 count; 8 replicas keep 4, so 5 are left: two at a time of 2 GiB each, all eight of half a GiB."""
    assert MemoryNeed(kept=GIB // 2, working=2 * GIB).width(8, 10 * GIB) == 2
    assert MemoryNeed(kept=GIB // 2, working=GIB // 2).width(8, 10 * GIB) == 8


def test_packs_that_cannot_fit_are_refused_with_figures() -> None:
    with pytest.raises(ConfigError, match=r"8 replicas need 11\.11 GiB, of which 10\.00 GiB are free\. Train fewer"):
        MemoryNeed(kept=GIB, working=2 * GIB).width(8, 10 * GIB)


def test_a_split_pack_is_the_same_pack() -> None:
    """Groups of 2, 1 and 2 of five replicas under vmap give what each gives alone."""
    whole = Pack([algorithms.get("diffusion_ql")()] * 5, DIMS, range(5), dtype=torch.float64, width=5)
    split = Pack([algorithms.get("diffusion_ql")()] * 5, DIMS, range(5), dtype=torch.float64, width=2)
    assert [group.stop - group.start for group in split.groups()] == [2, 1, 2]
    assert [group.stop - group.start for group in whole.groups()] == [5]
    single = Pack([algorithms.get("diffusion_ql")()], DIMS, [0], dtype=torch.float64)
    batch, noise = made_up_update(single, 8)
    for pack in (whole, split):
        pack.update(*tree_map(lambda tensor: tensor.expand(5, *tensor.shape[1:]), (batch, noise)))
    for name, matrix in whole.state.parameters.items():
        assert torch.allclose(matrix, split.state.parameters[name], rtol=0, atol=1e-12)


def test_free_memory_is_some_of_the_machines() -> None:
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**45


@pytest.mark.parametrize(
    ("share", "free", "left"),
    [("", 70, 70), ("0.5", 70, 30), ("0.5", 20, 20), ("0.25", 70, 10)],
    ids=str,
)
def test_packs_on_one_gpu_count_their_share(share: str, free: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GiB, of which this process holds 10: half are 40, so 30 more, if so much is free; less the libraries'."""
    if share:
        monkeypatch.setenv("DQLAB_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GIB)
    assert free_bytes(torch.device("cuda")) == left * GIB - 128 * 2**20
