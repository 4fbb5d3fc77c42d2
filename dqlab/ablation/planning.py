"""A grid file becomes a plan: its cells, each known by a digest of what it runs, their packs, and what these will take.

Which parameters a configuration reads depends on its choices (names, flags, what is bound at all), hardly ever on
its numbers. So one cell of every combination of choices is built and exercised, and tells which parameters count, with
their defaults; the others' values are then looked up. Numbers count as choices by their sign, and what an axis sets
always counts: two cells of a grid are never taken for one because of a parameter that nothing seemed to read.
"""

from __future__ import annotations

import gc
import inspect
import math
import tempfile
import timeit
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dqlab.ablation.engines.base import Job
from dqlab.ablation.grid import Grid, Setting
from dqlab.algorithms import algorithms
from dqlab.analysis.results import Cell
from dqlab.config import fields, gin_files, gin_state
from dqlab.config.gin_files import bound_names, format_bindings
from dqlab.config.identity import OF_GRIDS, SOURCES, TASK, Replica, belongs_to_cell, is_as_before
from dqlab.data.rewards import reward_transforms
from dqlab.data.sources import absolute_source, find_dataset
from dqlab.envs import tasks
from dqlab.errors import PACKAGE, ConfigError, DataError, DqlabError, message_of
from dqlab.files import json_digest, size_of
from dqlab.runs import Experiment
from dqlab.runs.experiment import build_pack, check_experiment
from dqlab.training.execution.modes import Eager
from dqlab.training.probe import USABLE, free_bytes, made_up_update
from dqlab.training.programs import SamplerCore

Values = dict[str, Any]
WITH_THE_DATA = ("data.", "data_source.", "reward_transform.")
EMBEDDED = PACKAGE / "data" / "embedded"
NOT_RECORDED = {"tracking.Tracking.mlflow": False}  # one process records the whole grid, not one for every pack
MOST_ON_CPU, MOST_ON_GPU = 8, 64
MEASURED = 8  # kinds of packs that are measured; others are taken to be as large, and as slow, as any of them
GPU_ELSEWHERE = 16 * 2**30  # bytes that are counted on where packs go to GPUs that are not here
START = 10.0  # seconds that a process takes to start and to read its data
PROCESS = 600 * 2**20  # bytes of a process with PyTorch and MuJoCo, and nothing to train
ENVIRONMENT = 2 * 2**20  # bytes of one more copy of an environment, at most: D4RL's take about one million


@dataclass(frozen=True)
class ResolvedDataset:
    """The dataset of some cells: its source, file or folder (None where it is made), SHA-256, caveat of its scores."""

    source: str
    path: Path | None
    digest: str
    caveat: str = ""


class ConfigResolver:
    """Reads a grid's experiments from what `gin_files.load_gin` takes; no binding may set what an axis varies."""

    def __init__(self, files: Sequence[str | Path], bindings: Sequence[str] = (), imports: Sequence[str] = ()) -> None:
        self.files, self.bindings, self.imports = list(files), list(bindings), list(imports)
        self.loaded = gin_files.load_gin(files, bindings, imports)
        self.grid = Grid()
        self.text = format_bindings(gin_state.abbreviate_names(gin_state.bound_parameters()))
        # what experiments of the same choices read, with defaults, and which of it may differ within a pack
        self._choices: dict[Any, tuple[Values, frozenset[str]]] = {}
        self.read: set[str] = set()  # complete names of what the cells that were built have read
        self._found: dict[str, ResolvedDataset] = {}
        self.name = cache(gin_state.complete_name)  # of a binding
        self.not_fetched: list[str] | None = None  # addresses of data that only a run fetches; None: they are fetched
        varied = {self.name(each): axis for axis, parameters in self.grid.parameters.items() for each in parameters}
        for name in (name for binding in bindings for name in bound_names(binding)):
            if axis := varied.get(self.name(name)):
                said = f"--set {name} sets what the grid varies (axis '{axis}')"
                raise ConfigError(f"{said}. Leave it off, or change the axis in the grid's file.")

    def bases(self) -> dict[str, Values]:
        """The experiment without its axes, on every task of the grid: all that is bound, by complete name."""
        found = {}
        for task in self.grid.tasks or (gin_state.bound_value(TASK),):
            if not task:
                raise ConfigError("The grid has no task: set Experiment.task, or Grid.tasks.")
            self.load(str(task), ())
            bound = gin_state.bound_parameters()
            found[str(task)] = {n: value for n, value in bound.items() if not n.startswith(OF_GRIDS) or "/" in n}
            if not for_this_machine(bound):
                _ = Experiment().resolved_device  # a typo there is no cell's fault
        return found

    def load(self, task: str, more: Sequence[str]) -> None:
        """Make an experiment of the grid the current configuration: a task's, with more bindings."""
        try:
            named = self.grid.task_gin.replace("{task}", task)
            own = [gin_files.find_gin_file(named)] if named else []
        except ConfigError as error:
            raise ConfigError(f"Grid.task_gin, for the task '{task}': {error}") from error
        loaded = gin_files.load_gin([*self.files, *own], [*self.bindings, *more], self.imports)
        self.loaded.imports += [module for module in loaded.imports if module not in self.loaded.imports]
        self.loaded.folders += [folder for folder in loaded.folders if folder not in self.loaded.folders]
        if gin_state.bound_value(TASK) != task:  # not the one that the files make
            gin_state.bind_parameter(TASK, task)

    def values(self, task: str, base: Values, setting: Setting) -> tuple[Values, frozenset[str]]:
        """What a setting really runs on a task, name -> value; and which of it may differ within a pack."""
        own = {self.name(name): value for name, value in setting.bindings.items()}
        merged = {**base, **own}
        chosen = frozenset((name, _choice(value)) for name, value in merged.items() if name != TASK)
        key = tasks.get(task).settings, chosen  # a benchmark may have parameters of its own
        if key not in self._choices:
            try:
                self.load(task, [*setting.as_text(), *for_this_machine(base)])
                for name in own:
                    fields.PLACES.pop(name, None)  # of a cell: a message names that
                experiment = Experiment()
                check_experiment(experiment)
            except DqlabError as error:
                raise ConfigError(f"Cell '{setting.label}' on {task}: {message_of(error)}") from error
            algorithm = algorithms.selector(algorithms.entry(experiment.algorithm))
            apart = set(experiment.resolved_algorithm.hyper()) - experiment.probe.shared_hyperparameters
            self.read |= gin_state.parameters_read()
            read = {**gin_state.operative_parameters(), **_read_with_the_data()}
            counting = {name: value for name, value in read.items() if belongs_to_cell(name)}
            self._choices[key] = counting, frozenset(f"{algorithm}.{name}" for name in apart)
        defaults, scalars = self._choices[key]
        return {**{name: merged.get(name, default) for name, default in defaults.items()}, **own}, scalars

    def check_read(self) -> None:
        """See that some cell, or the grid itself, reads what the command line binds; what loads data counts as read."""
        of_data = {name for name in gin_state.bound_parameters() if name.startswith(WITH_THE_DATA)}
        gin_files.check_parameters_read(self.bindings, self.read | of_data)

    def data(self, task: str, values: Values) -> ResolvedDataset:
        """The dataset that an experiment on a task reads; the sources are asked once for all that ask the same."""
        sources, before = values[SOURCES], len(self.not_fetched or ())
        key = f"{task} from {sources!r}"
        if key in self._found:
            return self._found[key]
        try:
            found = find_dataset(tasks.get(task), sources)
        except DataError:
            if len(self.not_fetched or ()) == before:
                raise
            resolved = ResolvedDataset(str(sources), None, f"{task}: not here yet")
        else:
            caveat = "; ".join(filter(None, (found.caveat, tasks.get(task).caveat)))
            resolved = ResolvedDataset(absolute_source(found.source), found.place, found.digest(), caveat)
        return self._found.setdefault(key, resolved)


def for_this_machine(bound: Values) -> list[str]:
    """Bindings with which parts that are meant for a GPU can be tried here, where there is none."""
    device = str(bound.get("experiment.Experiment.device", ""))
    if device.partition(":")[0] != "cuda" or torch.cuda.is_available():
        return []
    return ["Experiment.device='cpu'", "Experiment.precision='full'", "Training.execution='auto'"]


def _read_with_the_data() -> Values:
    """Parameters that are read where data is loaded, which a plan does not do."""

    def parameters(selector: str) -> Values:
        bound = {n: v for n, v in gin_state.bound_parameters().items() if n.startswith(selector + ".")}
        described = inspect.signature(gin_state.configurables()[selector]).parameters.values()
        # what has no default has a class in its place, which can be called
        known = {f"{selector}.{p.name}": p.default for p in described if not callable(p.default)}
        return {**known, **bound}

    of_data = parameters("data.load_dataset")
    transform = reward_transforms.entry(str(of_data["data.load_dataset.reward_transform"]))
    return {**of_data, **parameters(reward_transforms.selector(transform))}


def _choice(value: Any) -> Any:
    """A value as far as it decides which parts are built: itself, or a number's sign."""
    known = canonical(value)
    return (known > 0) - (known < 0) if isinstance(known, float) else repr(known)


def canonical(value: Any) -> Any:
    """A value that is equal exactly to those that run the same: 5 is 5.0, a list is a tuple, a mapping has no order."""
    if isinstance(value, (bool, str, type(None))):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, (tuple, list)):
        return [canonical(item) for item in value]
    return {str(k): canonical(v) for k, v in value.items()} if isinstance(value, Mapping) else repr(value)


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
            kind = json_digest({name: value for name, value in runs.items() if name not in scalars})
            bindings = {resolver.name(name): value for name, value in setting.bindings.items()}
            if kind not in kinds:
                common = {name: value for name, value in bindings.items() if name not in scalars}
                bound = {**base, **common, SOURCES: (data.source,), **NOT_RECORDED}
                kinds[kind] = PackKind(task, resolver.loaded.header() + format_bindings(bound), data)
            apart = {name: value for name, value in bindings.items() if name in scalars}
            identity, about = json_digest(runs), (setting.label, setting.points, task)
            cells += [Cell(json_digest([identity, seed]), *about, seed, apart, kind) for seed in resolver.grid.seeds]
    return Plan(tuple(cells), kinds)


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
        packs += [PlannedPack(json_digest([cell.id for cell in part]), kind, part) for part in parts]
    return packs


def load_pack(pack: PlannedPack) -> tuple[Experiment, bool]:
    """A pack's experiment, the current configuration from now on, on this machine; and whether it is for a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.gin"
        path.write_text(pack.as_gin())
        gin_files.load_gin([path])
        instead = for_this_machine(gin_state.bound_parameters())
        gin_files.load_gin([path], instead)
    experiment = Experiment()
    return experiment, bool(instead) or experiment.resolved_device.type != "cpu"


def pack_sizes(limit: int, cells: int, slots: int) -> Callable[[PackKind], int]:
    """How many cells of a kind are trained together, at most: as the grid says, or (0) by the device.

    On a GPU as many as fit: they cost little more than one. On a CPU some, to share a process's start, but so that
    every slot has several packs.
    """
    sizes: dict[int, int] = {}  # by the kind's id
    on_cpu = min(max(math.ceil(cells / (4 * slots)), 1), MOST_ON_CPU)

    def width(kind: PackKind) -> int:
        if limit:
            return limit
        if len(sizes) < MEASURED and id(kind) not in sizes:
            experiment, on_gpu = load_pack(PlannedPack("", kind, ()))
            sizes[id(kind)] = _fit_on_gpu(experiment) if on_gpu else on_cpu
        return sizes.get(id(kind), min(sizes.values()))

    return width


def _fit_on_gpu(experiment: Experiment) -> int:
    device, needed = experiment.resolved_device, experiment.probe.memory
    free = GPU_ELSEWHERE if device.type == "cpu" else free_bytes(device)
    return min(max(int(USABLE * free / (needed.kept + needed.working)), 1), MOST_ON_GPU)


def plan_jobs(packs: Sequence[PlannedPack], folder: Path) -> list[Job]:
    """A job in `folder` for every pack, with what it takes: of one kind and size one is measured, of all kinds some."""
    kinds = {(id(pack.kind), len(pack.cells)): pack for pack in packs}
    spread = np.linspace(0, len(kinds) - 1, min(len(kinds), MEASURED), dtype=int)
    measured = {key: measure_pack(kinds[key]) for key in (list(kinds)[index] for index in spread)}
    gc.collect()  # a step and its programs refer to each other
    torch.cuda.empty_cache()  # of a GPU that packs are about to share; nothing without one
    largest = [max(each) for each in zip(*measured.values(), strict=True)]
    jobs = []
    for pack in packs:
        costs = measured.get((id(pack.kind), len(pack.cells)), largest)
        path = pack.kind.data.path
        inputs = () if path is None or EMBEDDED in path.resolve().parents else (path,)
        jobs.append(Job(pack.id, folder / pack.id, inputs, *costs))
    return jobs


def measure_pack(pack: PlannedPack) -> list[Any]:
    """What a job says that it takes: threads, bytes on the host and on a GPU, seconds.

    Updates and actions are timed uncompiled, on a CPU those of one replica.
    """
    experiment, on_gpu = load_pack(pack)
    check_experiment(experiment)
    plan, needed, cells = experiment.plan, experiment.probe.memory, len(pack.cells)
    on_cpu = experiment.resolved_device.type == "cpu"
    replicas = build_pack(experiment, experiment.resolved_replicas[:1] if on_cpu else None)
    batch, noise = made_up_update(replicas, plan.batch_size, replicas.replicas)
    core = SamplerCore(replicas, plan.eval_episodes, Eager())
    states = torch.zeros(replicas.replicas, plan.eval_episodes, experiment.dims.state)
    drawn = core.noise_stream("calibration").at(0)

    def update(step: int) -> None:
        replicas.state.step = step
        replicas.update(batch, noise)
        replicas.synchronize()

    kinds = replicas.kinds(range(plan.steps))
    updating = sum(count * _seconds(partial(update, step)) for step, count in kinds.items())
    evaluations = math.ceil(plan.steps / plan.eval_every) + plan.evaluate_untrained
    turns = evaluations * experiment.resolved_task.episode_limit
    seconds = updating + turns * _seconds(lambda: core.sample_actions(states, drawn).cpu())
    training = cells * needed.kept + (cells if on_gpu else 1) * needed.working
    data = 2 * size_of(pack.kind.data.path) if pack.kind.data.path else 0
    memory = PROCESS + cells * plan.eval_episodes * ENVIRONMENT + data + (0 if on_gpu else training)
    seconds = START + (cells if on_cpu else 1) * seconds
    return [experiment.resolved_threads, memory, training if on_gpu else 0, seconds]


def _seconds(function: Callable[[], object]) -> float:
    """Seconds a call: the middle one of nine, so that the first, slow ones do not count."""
    return median(timeit.repeat(function, number=1, repeat=9))
