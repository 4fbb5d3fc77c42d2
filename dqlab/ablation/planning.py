"""A grid file becomes a plan: its cells, each known by a digest of what it runs, and the packs they are trained in."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from dqlab.ablation.config_resolver import ConfigResolver, ResolvedDataset, canonical, for_this_machine
from dqlab.analysis.results import Cell
from dqlab.config import gin_files
from dqlab.config.gin_state import bound_parameters
from dqlab.config.gin_syntax import format_bindings
from dqlab.config.identity import SOURCES, is_as_before
from dqlab.runs import Experiment
from dqlab.training.probe import USABLE, free_bytes

DIGITS = 16
OF_PACKS = {"tracking.Tracking.mlflow": False}
"""What packs are configured with besides: one process records the whole grid in MLflow, not one for every pack."""


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
        replicas = {
            cell.replica: {"seed": cell.seed, "cell": cell.label, "points": dict(cell.points), "set": cell.scalars}
            for cell in self.cells
        }
        return self.kind.text + format_bindings({"Experiment.replicas": replicas})


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
            data = resolver.data(task, values)
            # what is read counts, not where from
            read = {name: value for name, value in canonical(values).items() if name != SOURCES}
            runs = {name: value for name, value in read.items() if not is_as_before(name, value)} | {
                "data": data.digest
            }
            kind = _digest({name: value for name, value in runs.items() if name not in scalars})
            bindings = {resolver.name(name): value for name, value in setting.bindings.items()}
            if kind not in kinds:
                common = {name: value for name, value in bindings.items() if name not in scalars}
                bound = {**base, **common, SOURCES: (data.source,), **OF_PACKS}
                kinds[kind] = PackKind(task, resolver.loaded.header() + format_bindings(bound), data)
            apart = {name: value for name, value in bindings.items() if name in scalars}
            identity = _digest(runs)
            cells += [
                Cell(_digest([identity, seed]), setting.label, setting.points, task, seed, apart, kind)
                for seed in resolver.grid.seeds
            ]
    return Plan(tuple(cells), kinds)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def pack_cells(plan: Plan, wanted: Container[str], width: Callable[[PackKind], int]) -> list[PlannedPack]:
    """Packs of the wanted cells; cells that differ only in seeds and scalars share them.

    Args:
        plan: the plan.
        wanted: ids of cells; one that several settings have is packed once.
        width: cells that a pack of that kind may have, at most.
    """
    groups: dict[str, dict[str, Cell]] = {}
    for cell in plan.cells:
        if cell.id in wanted:
            groups.setdefault(cell.kind, {}).setdefault(cell.id, cell)
    packs = []
    for name, group in groups.items():
        kind = plan.kinds[name]
        cells = tuple(group.values())
        count = math.ceil(len(cells) / max(width(kind), 1))  # of packs, whose sizes are as even as can be
        edges = [round(index * len(cells) / count) for index in range(count + 1)]
        parts = [cells[start:stop] for start, stop in pairwise(edges)]
        packs += [PlannedPack(_digest([cell.id for cell in part]), kind, part) for part in parts]
    return packs


def load_pack(pack: PlannedPack) -> tuple[Experiment, bool]:
    """Make a pack the current configuration, on this machine; and whether it is meant for a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.gin"
        path.write_text(pack.as_gin())
        gin_files.load_gin([path])
        instead = for_this_machine(str(bound_parameters().get("experiment.Experiment.device", "")))
        gin_files.load_gin([path], instead)
    experiment = Experiment()
    return experiment, bool(instead) or experiment.resolved_device.type != "cpu"


MOST_ON_CPU, MOST_ON_GPU = 8, 64
MEASURED = 8
"""Kinds of packs that are measured; others are taken to be as large, and as slow, as any of them."""
GPU_ELSEWHERE = 16 * 2**30
"""Bytes that are counted on where packs go to GPUs that are not here."""


def pack_sizes(limit: int, cells: int, slots: int) -> Callable[[PackKind], int]:
    """How many cells of a kind are trained together, at most.

    On a GPU as many as fit: they cost little more than one. On a CPU some, to share a process's start, but so that
    every slot has several packs.

    Args:
        limit: as the grid's file says; 0 leaves it to the device.
        cells: to be packed, of all kinds.
        slots: packs that run at a time.
    """
    fitting: dict[int, int] = {}
    on_cpu = min(max(math.ceil(cells / (4 * slots)), 1), MOST_ON_CPU)

    def width(kind: PackKind) -> int:
        if limit:
            return limit
        if len(fitting) < MEASURED and id(kind) not in fitting:
            fitting[id(kind)] = _fitting(kind)
        return fitting.get(id(kind), min(fitting.values())) or on_cpu

    return width


def _fitting(kind: PackKind) -> int:
    """How many cells of a kind fit on the GPU that they would use; 0 where they use none."""
    experiment, on_gpu = load_pack(PlannedPack("", kind, ()))
    if not on_gpu:
        return 0
    here = experiment.resolved_device.type != "cpu"
    free = free_bytes(experiment.resolved_device) if here else GPU_ELSEWHERE
    needed = experiment.probe.memory
    fit = int(USABLE * free / (needed.kept + needed.working))
    return min(max(fit, 1), MOST_ON_GPU)
