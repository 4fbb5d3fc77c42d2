"""Correctness: all modes compute the same, a GPU the same as a CPU, and nothing makes the host wait."""

from __future__ import annotations

import warnings
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from subjects import DIMS, new_mode, new_pack, synchronizer

from dqlab.algorithms import algorithms
from dqlab.data.transitions import map_fields
from dqlab.noise import draw_noise, generator_for, integers
from dqlab.training import Pack
from dqlab.training.execution.program import nested_tensors
from dqlab.training.programs import SamplerCore, Step
from gpu.data import load
from gpu.notes import Notes
from gpu.settings import Settings

LIMITS = {torch.float32: 1e-4, torch.float64: 1e-9}
"""What the largest difference may be; float32 first, because training shares its compiled code."""
INJECTED = 5
"""Updates that a CPU has to keep up with."""
ENOUGH = 5.0
"""A comparison is not begun with fewer seconds left."""
FIRST = "diffusion_ql"
WAITED = "called a synchronizing CUDA operation"
"""What PyTorch warns of where the host waits; it also says once that it does not see every wait."""


def run(settings: Settings, notes: Notes) -> None:
    """The paper's algorithm in every mode that trains it before any other one, and before float64."""
    others = [name for name in algorithms.names() if name != FIRST]
    modes = [mode for mode in reversed(settings.modes) if mode != "eager"]
    if settings.on_gpu:
        notes.attempt(f"{FIRST}, GPU and CPU", partial(devices_agree, settings, FIRST))
    for mode in sorted(modes, key=lambda mode: "cuda_graph" not in mode):
        _compare(settings, notes, FIRST, mode, torch.float32)
    for mode in settings.fast_modes:
        notes.attempt(f"{FIRST}, {mode}, updates and actions in turns", partial(takes_turns, settings, mode))
    for name in others if settings.on_gpu else ():
        if settings.left() > ENOUGH:
            notes.attempt(f"{name}, GPU and CPU", partial(devices_agree, settings, name))
    for mode, name, dtype in product(reversed(modes), [FIRST, *others], LIMITS):
        if (name, dtype) != (FIRST, torch.float32):
            _compare(settings, notes, name, mode, dtype)


def _compare(settings: Settings, notes: Notes, name: str, mode: str, dtype: torch.dtype) -> None:
    if settings.left() > ENOUGH:
        label = f"{name}, {mode}, {str(dtype).removeprefix('torch.')}"
        notes.attempt(label, partial(modes_agree, settings, name, mode, dtype))


def run_waits(settings: Settings, notes: Notes) -> None:
    for mode in settings.fast_modes:
        notes.attempt(mode, partial(waits, settings, mode))


def modes_agree(settings: Settings, algorithm: str, mode: str, dtype: torch.dtype) -> dict[str, Any]:
    """The largest difference of any parameter, moment or target after some updates, to the eager mode."""
    return _verdict(
        _distance(_eager(settings, algorithm, dtype), _trained(settings, algorithm, mode, dtype)), LIMITS[dtype]
    )


@cache
def _eager(settings: Settings, algorithm: str, dtype: torch.dtype) -> Pack:
    """What the modes are held to, trained once."""
    return _trained(settings, algorithm, "eager", dtype)


def _trained(settings: Settings, algorithm: str, mode: str, dtype: torch.dtype) -> Pack:
    pack = new_pack(settings.sizes.checked, settings.device, dtype, algorithm)
    step = new_step(settings, pack, mode)
    for _ in range(settings.sizes.updates):
        step()
    synchronizer(settings.device)()
    return pack


def takes_turns(settings: Settings, mode: str) -> dict[str, Any]:
    """Updates and actions by graphs that share memory, in turns, an older step being garbage; against eager."""
    states = torch.randn(settings.sizes.checked, 5, DIMS.state, generator=torch.Generator().manual_seed(0))
    found = []
    for name in ("eager", mode):
        chosen = new_mode(name)
        pack = new_pack(settings.sizes.checked, settings.device)
        data = load(settings.data).to(settings.device, pack.dtype)
        step = Step(pack, data, settings.sizes.batch, chosen)
        step = Step(pack, data, settings.sizes.batch, chosen)  # the first one is garbage now
        core = SamplerCore(pack, 5, chosen)
        stream = core.noise_stream("turns")
        for turn in range(2):
            for _ in range(settings.sizes.updates):
                step()
            found.append(core.sample_actions(states, stream.at(turn)).clone())
    one, other = torch.stack(found).chunk(2)
    return _verdict(float((one - other).abs().max()), LIMITS[torch.float32])


def new_step(settings: Settings, pack: Pack, mode: str) -> Step:
    """The training step."""
    data = load(settings.data).to(settings.device, pack.dtype)
    return Step(pack, data, settings.sizes.batch, new_mode(mode))


def devices_agree(settings: Settings, algorithm: str) -> dict[str, Any]:
    """The same on both devices: weights, batches and noise are made on the CPU and injected; float64."""
    packs = [new_pack(2, device, torch.float64, algorithm) for device in ("cpu", settings.device)]
    data = load(settings.data).to("cpu", torch.float64)
    specs = {**packs[0].algorithm.update_noise(DIMS, settings.sizes.batch)}
    specs["batch_index"] = integers(len(data), settings.sizes.batch)
    for update in range(min(settings.sizes.updates, INJECTED)):
        noise = draw_noise(specs, generator_for(0, "injected", update), torch.float64, count=2)
        batch = data.batch(noise.pop("batch_index"))
        for pack in packs:
            move = partial(torch.Tensor.to, device=pack.device)
            pack.update(map_fields(move, batch), {name: move(value) for name, value in noise.items()})
    return _verdict(_distance(*packs), LIMITS[torch.float64])


def _distance(first: Pack, second: Pack) -> float:
    """The largest difference between the states of two packs; NaN if there is one."""
    both = [
        nested_tensors({"p": p.state.parameters, "m": p.state.moments, "t": p.state.targets}) for p in (first, second)
    ]
    return float(torch.stack([(a.cpu() - b.cpu()).abs().max().double() for a, b in zip(*both, strict=True)]).max())


def _verdict(distance: float, limit: float) -> dict[str, Any]:
    return {"difference": distance, "limit": limit, "passed": distance <= limit}


def waits(settings: Settings, mode: str) -> dict[str, Any]:
    """How often the host waits for the device in 100 updates, those included in which new noise is drawn."""
    step = new_step(settings, new_pack(settings.sizes.checked, settings.device), mode)
    step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if settings.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(settings.sizes.counted):
                step()
        finally:
            if settings.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    found = [str(warning.message) for warning in caught if WAITED in str(warning.message)]
    places = sorted({f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in caught if WAITED in str(w.message)})
    return {"waits in 100 updates": 100 * len(found) / settings.sizes.counted, "where": " ".join(places) or "nowhere"}
