"""Figures: updates a second, alone and packed; memory; what a mode costs at first; kernels; the sampler's latency."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from baseline import Agent, HostData
from subjects import DIMS, Chain, new_mode, new_pack, synchronizer

import dqlab
from dqlab.networks.precision import Precision, precisions
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.training import Probe
from dqlab.training.execution import program as programs
from gpu.checks import ENOUGH, new_step
from gpu.data import fields
from gpu.notes import Notes
from gpu.settings import Settings
from gpu.timing import alternating, median_seconds, timed

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "combo kernels": {"combo_kernels": True},
    "whole reductions": {"split_reductions": False},
    "chosen by timing": {"deterministic": False},
    "autotuned products": {
        "deterministic": False,
        "max_autotune_gemm": True,
        "max_autotune_gemm_backends": "ATEN,TRITON",
    },
}
"""Settings of PyTorch's compiler that may pay: launches that do not depend on each other as one; sums in one launch
instead of two; kernels chosen by timing; products by Triton, where that is faster, with what follows them."""
COMPILING = 40.0
"""Seconds without which a variant is not begun."""
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")


def run(settings: Settings, notes: Notes) -> None:
    """The most telling first, since every size is compiled anew and time may run out; lower precisions last."""
    first, *others = settings.sizes.packs
    modes = sorted(settings.modes, key=lambda mode: ("cuda_graph" not in mode, "compile" not in mode))
    fast = [mode for mode in modes if mode in settings.fast_modes]
    alone = [(f"alone, {mode}", partial(against_baseline, settings, mode)) for mode in modes]
    packs = [_packed(settings, mode, replicas) for replicas in (first, *others) for mode in fast]
    count = len(fast)
    lower = [_packed(settings, fast[0], first, name) for name in ("tf32", "bf16") if settings.on_gpu]
    for name, measure in [
        *(alone[:1] + packs[:1] + alone[1:count] + packs[1:count]),
        *(lower + alone[count:] + packs[count:]),
    ]:
        if settings.left() > ENOUGH:
            notes.attempt(name, measure)


def _packed(settings: Settings, mode: str, replicas: int, precision: str = "full") -> tuple[str, Callable[[], Any]]:
    return f"K={replicas}, {mode}, {precision}", partial(packed, settings, mode, replicas, precision)


def run_details(settings: Settings, notes: Notes) -> None:
    for mode in settings.modes:
        notes.attempt(f"profile, {mode}", partial(profiled, settings, mode))
    for mode in [mode for mode in settings.modes if mode in ("eager", *settings.fast_modes)]:
        for n_timesteps, states in product(settings.sizes.steps, settings.sizes.states):
            if settings.left() > ENOUGH and not ("compile" in mode and n_timesteps > 5):
                name = f"sampler, N={n_timesteps}, B={states}, {mode}"
                notes.attempt(name, partial(sampled, settings, mode, n_timesteps, states))


def run_peers(settings: Settings, notes: Notes) -> None:
    """The same update jitted in JAX, where a JAX for this device is installed; and a policy that acts in one state."""
    for mode in settings.fast_modes[:1]:
        notes.attempt(f"against JAX, {mode}", partial(against_jax, settings, mode))
    for compiled in (False, True):
        if settings.left() > (COMPILING if compiled else ENOUGH):
            name = f"one state, 50 candidates, load_policy{'(compiled=True)' if compiled else ''}"
            notes.attempt(name, partial(single_state, settings, compiled))


def against_jax(settings: Settings, mode: str) -> dict[str, float] | str:
    """One replica and the peer in JAX on the same device, in alternation."""
    if importlib.util.find_spec("jax") is None:
        return "no JAX here"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    from baseline_jax import JaxAgent, on_gpu

    if settings.on_gpu and not on_gpu():
        return "this JAX sees no GPU"
    pack = new_pack(1, settings.device)
    weights = {net: {k: v.cpu().numpy() for k, v in named.items()} for net, named in pack.weights(0).items()}
    agent = JaxAgent(weights, fields(settings.data), settings.device, settings.sizes.batch)
    step: Any = new_step(settings, pack, mode)

    def peer() -> None:
        for _ in range(settings.sizes.updates):
            agent.step()
        agent.synchronize()

    calls = {"dqlab": (step, settings.sizes.updates), "jax": (peer, 1)}
    seconds = alternating(calls, settings.device)
    theirs = seconds["jax"] / settings.sizes.updates
    return {"updates/s": 1 / seconds["dqlab"], "JAX's": 1 / theirs, "ratio": theirs / seconds["dqlab"]}


def single_state(settings: Settings, compiled: bool) -> dict[str, float]:
    """Actions in one state a call, the host's, through `load_policy` and by the baseline, in alternation."""
    own = {"load_dataset.sources": ("embedded",), "Training.eval_episodes": 1, "Tracking.mlflow": False}
    with tempfile.TemporaryDirectory() as folder:
        chosen = {**own, "Training.execution": "eager", "Experiment.device": settings.device}
        run = dqlab.train("diffql_walker2d", set=chosen, steps=1, out=Path(folder) / "run", quiet=True)
        policy = dqlab.load_policy(run.path, "last", device=settings.device, compiled=compiled)
        agent, state = Agent(DIMS.state, DIMS.action, settings.device), np.zeros(DIMS.state, np.float32)
        calls = {"dqlab": (partial(policy, state), 20), "baseline": (partial(agent.sample_action, state), 20)}
        seconds = alternating(calls, settings.device)  # type: ignore[arg-type]
    return {"ms": 1e3 * seconds["dqlab"], "ratio": seconds["baseline"] / seconds["dqlab"]}


def run_variants(settings: Settings, notes: Notes) -> None:
    """Only on demand (`--only variants`): each compiles the update anew. Unmerged sums decide whether merging stays."""
    compiled = [mode for mode in settings.fast_modes if "compile" in mode][:1]
    for mode, replicas in product(compiled, (settings.sizes.packs[0], 1)):
        name, measure = _packed(settings, mode, replicas)
        with mock.patch.object(programs, "merge_sums", return_value=0):
            _variant(settings, notes, f"sums not merged, {name}", measure)
    for mode, precision, (name, options) in product(compiled, ("full", "tf32"), VARIANTS.items()):
        with products_in(precisions.get(precision)()), mock.patch.dict(programs.OPTIONS_ON_GPU, options):
            _variant(settings, notes, f"{name}, {precision}", partial(against_baseline, settings, mode))


def _variant(settings: Settings, notes: Notes, name: str, measure: Callable[[], Any]) -> None:
    if settings.left() > COMPILING or settings.smoke:
        notes.attempt(name, measure)


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Matrix products of float32 numbers as that precision has them."""
    torch.set_float32_matmul_precision(precision.float32_products)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def against_baseline(settings: Settings, mode: str) -> dict[str, float]:
    """One replica, and the baseline on the same device, in alternation."""
    pack = new_pack(1, settings.device)
    step, seconds_to_build = timed(partial(new_step, settings, pack, mode), settings.device)
    agent = Agent(DIMS.state, DIMS.action, settings.device)
    data = HostData(fields(settings.data), settings.device)
    calls = {
        "dqlab": (step, settings.sizes.updates),
        "baseline": (partial(agent.update, data, settings.sizes.batch), max(settings.sizes.updates // 5, 1)),
    }
    seconds = alternating(calls, settings.device)  # type: ignore[arg-type]
    return {
        "updates/s": 1 / seconds["dqlab"],
        "baseline's": 1 / seconds["baseline"],
        "ratio": seconds["baseline"] / seconds["dqlab"],
        "seconds to build": seconds_to_build,
    }


def packed(settings: Settings, mode: str, replicas: int, precision: str) -> dict[str, float]:
    """K replicas: how fast; how much memory beyond the data; how long until the first update."""
    before = _reset_memory(settings)
    free_before = torch.cuda.mem_get_info()[0] if settings.on_gpu else 0
    chosen = precisions.get(precision)()
    with products_in(chosen):
        pack = new_pack(replicas, settings.device, precision=chosen)
        made, seconds_to_build = timed(partial(new_step, settings, pack, mode), settings.device)
        step: Any = made
        seconds = median_seconds(lambda: [step() for _ in range(settings.sizes.updates)], settings.device)
    told = Probe(pack.algorithm, DIMS, settings.sizes.batch).memory
    figures = {
        "replica updates/s": replicas * settings.sizes.updates / seconds,
        "seconds to build": seconds_to_build,
        "MiB a replica, told": (told.kept + told.working) / 2**20,
    }
    if settings.on_gpu:
        used, free = torch.cuda.max_memory_allocated() - before - _data_bytes(step), torch.cuda.mem_get_info()[0]
        figures |= {"MiB a replica": used / 2**20 / replicas}
        figures |= {"MiB reserved": torch.cuda.memory_reserved() / 2**20, "MiB taken": (free_before - free) / 2**20}
    return figures


def _reset_memory(settings: Settings) -> int:
    """Bytes in use before a measurement."""
    if not settings.on_gpu:
        return 0
    gc.collect()  # a step and its programs refer to each other
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _data_bytes(step: Any) -> int:
    """Bytes of the data set, which does not grow with K."""
    return sum(field.nbytes for field in step._fields if field is not None)


def profiled(settings: Settings, mode: str) -> dict[str, float]:
    """Kernels of an update, and how long the device has nothing to do, by PyTorch's profiler."""
    step = new_step(settings, new_pack(1, settings.device), mode)
    updates, wait = settings.sizes.updates, synchronizer(settings.device)
    for _ in range(3):
        step()
    wait()
    activities = [torch.profiler.ProfilerActivity.CUDA] if settings.on_gpu else [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(updates):
            step()
        wait()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return device_time([event for event in events if event.get("cat") in KERNELS], updates)


def device_time(events: Sequence[Mapping[str, Any]], updates: int) -> dict[str, float]:
    """Kernels and microseconds of an update, and the share of the time in which none ran.

    Args:
        events: what ran on the device, each with its start `ts` and its duration `dur` in microseconds.
        updates: in how many updates.
    """
    if not events:
        return {"kernels an update": 0.0}
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    busy, free_from = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, free_from))
        free_from = max(free_from, end)
    whole = free_from - spans[0][0]
    return {
        "kernels an update": len(events) / updates,
        "us an update": whole / updates,
        "us busy": busy / updates,
        "idle share": 1 - busy / whole,
    }


def sampled(settings: Settings, mode: str, n_timesteps: int, states: int) -> dict[str, float]:
    """The sampler, and the baseline's, in alternation."""
    chain = Chain(DiffusionPolicy(n_timesteps=n_timesteps), states, new_mode(mode), settings.device)
    actor = Agent(DIMS.state, DIMS.action, settings.device, n_timesteps).actor
    state = torch.randn(states, DIMS.state, device=settings.device)
    calls = {"dqlab": (chain, 10), "baseline": (torch.no_grad()(lambda: actor.sample(state)), 10)}
    seconds = alternating(calls, settings.device)
    return {"us": 1e6 * seconds["dqlab"], "ratio": seconds["baseline"] / seconds["dqlab"]}
