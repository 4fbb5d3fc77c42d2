"""A grid file becomes a plan: its cells, each known by a digest of what it runs, and their packs, with the time and
memory that these will take."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dqlab.ablation.config_resolver import ConfigResolver, ResolvedDataset, canonical, for_this_machine
from dqlab.analysis.results import Cell
from dqlab.config import gin_files
from dqlab.config.gin_files import format_bindings
from dqlab.config.gin_state import bound_parameters
from dqlab.config.identity import SOURCES, Replica, is_as_before
from dqlab.envs import make_env
from dqlab.files import size_of
from dqlab.runs import Experiment
from dqlab.runs.build import build_pack, check_experiment
from dqlab.training.execution.modes import Eager, execution_modes
from dqlab.training.probe import USABLE, flops_of_updates, free_bytes, made_up_update
from dqlab.training.programs import SamplerCore

NOT_RECORDED = {"tracking.Tracking.mlflow": False}  # one process records the whole grid, not one for every pack
MOST_ON_CPU, MOST_ON_GPU = 8, 64
MEASURED = 8  # kinds of packs that are measured; others are taken to be as large, and as slow, as any of them
GPU_ELSEWHERE = 16 * 2**30  # bytes that are counted on where packs go to GPUs that are not here
LONG, SHORT = 0.1, 0.05  # seconds for which each part is timed: to be shown, and only to put packs into an order
START = 10.0  # seconds that a process takes to start and to read its data
COMPILED = 0.5  # time of a compiled update, of an eager one's (docs/performance.md)
PROCESS = 600 * 2**20  # bytes of a process with PyTorch and MuJoCo, and nothing to train
ENVIRONMENT = 2 * 2**20  # bytes of one more copy of an environment, at most: D4RL's take about one million


@dataclass(frozen=True)
class PackKind:
    """What the cells of a pack have in common; `text` is their configuration without seeds and scalars."""

    task: str
    text: str
    data: ResolvedDataset


@dataclass(frozen=True)
class PlannedPack:
    """Cells that one process trains together."""

    id: str
    kind: PackKind
    cells: tuple[Cell, ...]

    def as_gin(self) -> str:
        """Its configuration, complete."""
        replicas = (Replica(cell.replica, cell.seed, cell.label, cell.points, cell.scalars) for cell in self.cells)
        named = {replica.name: replica.as_dict() for replica in replicas}
        return self.kind.text + format_bindings({"Experiment.replicas": named})


@dataclass(frozen=True)
class Plan:
    """All cells of a grid, in its order, and the kinds of packs that they fit into."""

    cells: tuple[Cell, ...]
    kinds: Mapping[str, PackKind] = field(default_factory=dict)

    @property
    def same(self) -> list[tuple[str, str]]:
        """Pairs of settings that run the same."""
        first: dict[str, str] = {}
        pairs = [(first.setdefault(cell.id, cell.label), cell.label) for cell in self.cells]
        return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))


def make_plan(resolver: ConfigResolver) -> Plan:
    """Every cell of a grid: its settings on its tasks with its seeds."""
    cells: list[Cell] = []
    kinds: dict[str, PackKind] = {}
    for task, base in resolver.bases().items():
        for setting in resolver.grid.settings:
            values, scalars = resolver.values(task, base, setting)
            data, read = resolver.data(task, values), canonical(values)
            del read[SOURCES]  # what is read counts, not where from
            runs = {name: value for name, value in read.items() if not is_as_before(name, value)}
            runs["data"] = data.digest
            kind = _digest({name: value for name, value in runs.items() if name not in scalars})
            bindings = {resolver.name(name): value for name, value in setting.bindings.items()}
            if kind not in kinds:
                common = {name: value for name, value in bindings.items() if name not in scalars}
                bound = {**base, **common, SOURCES: (data.source,), **NOT_RECORDED}
                kinds[kind] = PackKind(task, resolver.loaded.header() + format_bindings(bound), data)
            apart = {name: value for name, value in bindings.items() if name in scalars}
            identity, about = _digest(runs), (setting.label, setting.points, task)
            cells += [Cell(_digest([identity, seed]), *about, seed, apart, kind) for seed in resolver.grid.seeds]
    return Plan(tuple(cells), kinds)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def pack_cells(plan: Plan, wanted: Container[str], width: Callable[[PackKind], int]) -> list[PlannedPack]:
    """Packs of the wanted cells, `width(kind)` at most in each: they share all but seeds and scalars; none is twice."""
    groups: dict[str, dict[str, Cell]] = {}
    for cell in plan.cells:
        if cell.id in wanted:
            groups.setdefault(cell.kind, {}).setdefault(cell.id, cell)
    packs = []
    for name, group in groups.items():
        kind, cells = plan.kinds[name], tuple(group.values())
        count = math.ceil(len(cells) / max(width(kind), 1))  # of packs, whose sizes are as even as can be
        edges = [round(index * len(cells) / count) for index in range(count + 1)]
        parts = [cells[start:stop] for start, stop in pairwise(edges)]
        packs += [PlannedPack(_digest([cell.id for cell in part]), kind, part) for part in parts]
    return packs


def load_pack(pack: PlannedPack) -> tuple[Experiment, bool]:
    """A pack's experiment, the current configuration from now on, on this machine; and whether it is for a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.gin"
        path.write_text(pack.as_gin())
        gin_files.load_gin([path])
        instead = for_this_machine(str(bound_parameters().get("experiment.Experiment.device", "")))
        gin_files.load_gin([path], instead)
    experiment = Experiment()
    return experiment, bool(instead) or experiment.resolved_device.type != "cpu"


def pack_sizes(limit: int, cells: int, slots: int) -> Callable[[PackKind], int]:
    """How many cells of a kind are trained together, at most: as the grid says, or (0) by the device.

    On a GPU as many as fit: they cost little more than one. On a CPU some, to share a process's start, but so that
    every slot has several packs.
    """
    fitting: dict[int, int] = {}  # on the GPU that they would use, 0 where they use none; by the kind's id
    on_cpu = min(max(math.ceil(cells / (4 * slots)), 1), MOST_ON_CPU)

    def width(kind: PackKind) -> int:
        if limit:
            return limit
        if len(fitting) < MEASURED and id(kind) not in fitting:
            experiment, on_gpu = load_pack(PlannedPack("", kind, ()))
            device, fitting[id(kind)] = experiment.resolved_device, 0
            if on_gpu:
                free, needed = free_bytes(device) if device.type != "cpu" else GPU_ELSEWHERE, experiment.probe.memory
                fit = int(USABLE * free / (needed.kept + needed.working))
                fitting[id(kind)] = min(max(fit, 1), MOST_ON_GPU)
        return fitting.get(id(kind), min(fitting.values())) or on_cpu

    return width


class Cost(NamedTuple):
    """What a pack takes: seconds with episodes of full length, bytes on the host and on a GPU (0 without), threads."""

    seconds: float
    memory: int
    gpu_memory: int
    threads: int


def costs_of_packs(packs: Sequence[PlannedPack], seconds: float = LONG) -> dict[str, Cost]:
    """Cost of every pack, by its id; of one kind and size one is measured, and of all kinds some."""
    kinds = {(id(pack.kind), len(pack.cells)): pack for pack in packs}
    spread = np.linspace(0, len(kinds) - 1, min(len(kinds), MEASURED), dtype=int)
    measured = {key: measure_pack(kinds[key], seconds) for key in (list(kinds)[index] for index in spread)}
    gc.collect()  # a step and its programs refer to each other
    torch.cuda.empty_cache()  # of a GPU that packs are about to share; nothing without one
    if not measured:
        return {}
    largest = Cost(*map(max, zip(*measured.values(), strict=True)))
    return {pack.id: measured.get((id(pack.kind), len(pack.cells)), largest) for pack in packs}


def measure_pack(pack: PlannedPack, seconds: float = LONG) -> Cost:
    """Time updates and evaluations of a pack, and count its memory; on a CPU one replica is measured for all."""
    experiment, on_gpu = load_pack(pack)
    check_experiment(experiment)
    plan, device = experiment.plan, experiment.resolved_device
    times = len(pack.cells) if device.type == "cpu" else 1
    replicas = build_pack(experiment, experiment.resolved_replicas[:1] if device.type == "cpu" else None)
    batch, noise = made_up_update(replicas, plan.batch_size, replicas.replicas)

    def update(step: int) -> None:
        replicas.state.step = step
        replicas.update(batch, noise)
        replicas.synchronize()

    work = float(flops_of_updates(replicas, plan.batch_size, range(plan.steps)) * times)
    mode = execution_modes.get(plan.execution)().resolve(device, work)
    factor = COMPILED if mode.preparation else 1.0
    stretches = replicas.stretches(range(plan.steps))
    updating = factor * sum(len(each) * _seconds(partial(update, each.start), seconds) for each in stretches)
    evaluations = math.ceil(plan.steps / plan.eval_every) + plan.evaluate_untrained
    core = SamplerCore(replicas, plan.eval_episodes, Eager())
    drawn = core.noise_stream("calibration").at(0)
    states = torch.zeros(replicas.replicas, plan.eval_episodes, experiment.dims.state)
    acting = factor * _seconds(lambda: core.sample_actions(states, drawn).cpu(), seconds)
    acting += replicas.replicas * plan.eval_episodes * _env_seconds(experiment, seconds)
    evaluating = evaluations * experiment.resolved_task.episode_limit * acting
    needed = experiment.probe.memory
    training = len(pack.cells) * needed.kept + replicas.width * needed.working
    environments = len(pack.cells) * plan.eval_episodes * ENVIRONMENT
    file = 2 * size_of(pack.kind.data.path) if pack.kind.data.path is not None else 0
    return Cost(
        START + times * (updating + evaluating),
        PROCESS + environments + (0 if on_gpu else training) + file,
        training if on_gpu else 0,
        experiment.resolved_threads,
    )


def _seconds(function: Callable[[], object], least: float) -> float:
    """Seconds a call, after two calls to warm up."""
    function()
    function()
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < least:
        function()
        calls += 1
    return (time.perf_counter() - started) / calls


def _env_seconds(experiment: Experiment, least: float) -> float:
    """Seconds a step of the task's environment."""
    env = make_env(experiment.resolved_task, experiment.physics)
    env.reset(seed=0)
    action = env.action_space.sample()

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset(seed=0)

    return _seconds(step, least)
