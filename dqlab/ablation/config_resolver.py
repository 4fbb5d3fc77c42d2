"""What cells really run, read without building each of them.

Which parameters a configuration reads depends on its choices (names, flags, what is bound at all), hardly ever on
its numbers. So one cell of every combination of choices is built and exercised, and tells which parameters count, with
their defaults; the others' values are then looked up. Numbers count as choices by their sign, and what an axis sets
always counts: two cells of a grid are never taken for one because of a parameter that nothing seemed to read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dqlab.ablation.grid import Grid, Setting
from dqlab.algorithms import algorithms
from dqlab.config import fields, gin_files, gin_state
from dqlab.config.gin_files import bound_names, format_bindings
from dqlab.config.identity import OF_GRIDS, SOURCES, TASK, belongs_to_cell
from dqlab.data.rewards import reward_transforms
from dqlab.data.sources import absolute_source, find_dataset
from dqlab.envs import tasks
from dqlab.errors import ConfigError, DataError, DqlabError, message_of
from dqlab.runs import Experiment
from dqlab.runs.build import check_experiment

Values = dict[str, Any]
WITH_THE_DATA = ("data.", "data_source.", "reward_transform.")


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
            bound = gin_state.bound_parameters().items()
            found[str(task)] = {name: value for name, value in bound if not name.startswith(OF_GRIDS) or "/" in name}
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
        key = frozenset((name, _choice(value)) for name, value in merged.items() if name != TASK)
        if key not in self._choices:
            try:
                device = str(base.get("experiment.Experiment.device", ""))
                self.load(task, [*setting.as_text(), *for_this_machine(device)])
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


def for_this_machine(device: str) -> list[str]:
    """Bindings with which parts that are meant for a GPU can be tried here, where there is none."""
    if not device.startswith("cuda") or torch.cuda.is_available():
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
