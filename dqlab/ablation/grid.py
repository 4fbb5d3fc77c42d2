"""Grids: which settings of a base experiment are compared, as data in a gin file.

    include 'gin/diffql_walker2d.gin'
    Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2, 5, 10, 20)}}

A setting is one point of the grid: a label, and the bindings that it adds to those of the file. On a task and with a
seed it is a cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from dqlab.analysis.results import Report
from dqlab.config.fields import NonNegativeInt, check_field, check_fields
from dqlab.config.gin_files import bindings_in_file, check_binding
from dqlab.config.gin_state import complete_name
from dqlab.config.identity import is_seed
from dqlab.config.registry import configurable
from dqlab.errors import MANY, ConfigError, nearest

configurable("ablation")(Report)  # which its own room, that needs no gin, cannot do

Bindings = dict[str, Any]
OF_THE_GRID = (
    *("experiment.Experiment.task", "experiment.Experiment.seeds", "training.Training.", "tracking."),
    *("data.load_dataset.sources", "ablation."),
)
"""What a gin file that stands for a label does not decide: beginnings of complete names."""
BUDGET = tuple(f"training.Training.{name}" for name in ("steps", "batch_size", "eval_every", "eval_episodes"))
"""What it decides none the less with `Grid.own_budgets`."""
REFUSED: dict[str | tuple[str, ...], str] = {
    "experiment.Experiment.task": "Use Grid.tasks.",
    "experiment.Experiment.seeds": "Use Grid.seeds.",
    "experiment.Experiment.replicas": "Use Grid.seeds; the grid makes the replicas itself.",
    "experiment.Experiment.cell": "A setting's label is its cell.",
    ("ablation.", "tracking."): "It holds for the grid as a whole: set it beside Grid.axes.",
}
"""What no axis can set: beginnings of complete names, and what to do instead."""


@dataclass(frozen=True)
class Setting:
    """One point of a grid: a label such as `N=5, eta=1.0`, what it sets, and the text of its point on each axis."""

    label: str
    bindings: Bindings
    points: Mapping[str, str] = field(default_factory=dict)

    def as_text(self) -> list[str]:
        """The bindings as gin statements, the record of its label among them."""
        return [f"{name} = {value!r}" for name, value in {**self.bindings, "Experiment.cell": self.label}.items()]


@configurable("ablation")
@dataclass(frozen=True)
class Grid:
    """What is compared with what; a grid file includes a base experiment and sets these.

    Attributes:
        axes: axis name -> either one parameter and its values, `{'DiffusionQL.eta': (0.5, 1.0)}`; or labels and the
            bindings that each stands for, `{'BC': {'Experiment.algorithm': 'bc'}, 'Diffusion-QL': {}}`. In place of
            bindings a gin file may be named: it gives what it sets but task, budget and data sources.
        exclude: points that are left out, each as axis name -> point: `({'schedule': 'karras', 'N': 5},)`.
        tasks: tasks to run every setting on; the base experiment's if empty.
        task_gin: gin file with a task's own values, read after the grid's: `'gin/paper/{task}.gin'`; none if empty.
            What both include is read once, so that a budget in the grid's file stands.
        own_budgets: labels that stand for gin files have these files' updates, batch, and interval and episodes of
            evaluation, not those of the grid.
        seeds: replicas of every setting on every task.
        base: label of the setting that others are compared with; the first one if empty.
        engine: a name from the `engine` registry.
        storage: a folder that all machines of a cluster see, for packs; the grid's own folder if empty.
        pack: cells that one process trains together, at most; 0 chooses by the device.
    """

    axes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()
    tasks: tuple[str, ...] = ()
    task_gin: str = ""
    own_budgets: bool = False
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base: str = ""
    engine: str = "local"
    storage: str = ""
    pack: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(isinstance(self.axes, Mapping), self, "axes", "{axis: {parameter: values} or {label: bindings}}")
        if not self.axes:
            raise ConfigError("Grid.axes is empty. Include a grid file, for example ablations/steps.gin.")
        seeds = bool(self.seeds) and _different(self.seeds, is_seed)
        check_field(seeds, self, "seeds", "a tuple of different integers >= 0 (and below 2**32)")
        check_field(_different(self.tasks, _is_text), self, "tasks", "a tuple of different names, like ('my-task-v0',)")
        labels = [setting.label for setting in self.settings]
        if self.base and self.base not in labels:
            raise ConfigError(f"Grid.base='{self.base}' is no cell. {nearest(self.base, labels)}")

    @cached_property
    def points(self) -> dict[str, list[Setting]]:
        """Every axis' points, as settings of their own."""
        kept = BUDGET if self.own_budgets else ()
        return {name: _points(name, axis, kept) for name, axis in self.axes.items()}

    @property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """The parameters that every axis sets at any of its points, as written."""
        return {name: _parameters(points) for name, points in self.points.items()}

    @cached_property
    def settings(self) -> list[Setting]:
        """Every combination of the axes' points that is not excluded, the last axis varying fastest."""
        if shared := _twice(complete_name(name) for names in self.parameters.values() for name in names):
            raise ConfigError(f"Grid.axes: several axes set {shared[0]}, and only one can. Make one axis of them.")
        exclusions = _exclusions(self.exclude, self.points)
        kept = []
        for points in product(*self.points.values()):
            bindings = {name: value for point in points for name, value in point.bindings.items()}
            places = {axis: text for point in points for axis, text in point.points.items()}
            if not any(out.items() <= places.items() for out in exclusions):
                kept.append(Setting(", ".join(point.label for point in points), bindings, places))
        if not kept:
            raise ConfigError("Grid.exclude leaves nothing of the grid.")
        if twice := _twice(setting.label for setting in kept):
            raise ConfigError(f"Grid.axes: several settings have the label '{twice[0]}'. Name points without commas.")
        return kept

    @property
    def resolved_base(self) -> str:
        """Label of the setting that others are compared with."""
        return self.base or self.settings[0].label

    def setting(self, label: str) -> Setting:
        """The setting of that label. Raises ConfigError: there is none; the message names the settings."""
        found = {setting.label: setting for setting in self.settings}
        if label not in found:
            known = "; ".join(map(repr, list(found)[:MANY])) + ("; ..." if len(found) > MANY else "")
            raise ConfigError(f"The grid has no cell '{label}'. It has {known}.")
        return found[label]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _different(values: Any, fine: Callable[[Any], bool]) -> bool:
    """Whether it is a tuple or list of fine values, none of them twice."""
    return isinstance(values, (tuple, list)) and all(map(fine, values)) and len(set(values)) == len(values)


def _twice(texts: Iterable[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]


def _points(name: str, axis: Any, budget: tuple[str, ...]) -> list[Setting]:
    """An axis' points, as settings of their own."""
    place = f"Grid.axes['{name}']"
    if not isinstance(axis, Mapping) or not axis:
        raise ConfigError(f"{place} must be {{parameter: values}} or {{label: bindings}}, not {axis!r}.")
    labelled = all(isinstance(value, (Mapping, str)) for value in axis.values())
    if odd := [text for text in (name, *(axis if labelled else ())) if not _is_text(text)]:
        raise ConfigError(f"{place}: an axis' name, and a label, must be a text, not {odd[0]!r}.")
    if labelled:
        points = [Setting(label, _bundle(point, budget), {name: label}) for label, point in axis.items()]
    else:
        (parameter, values), *others = axis.items()
        if others or not isinstance(values, (tuple, list)) or not values:
            raise ConfigError(f"{place} must give one parameter a tuple of values, not {dict(axis)!r}.")
        points = [Setting(f"{name}={value}", {parameter: value}, {name: str(value)}) for value in values]
    for parameter in _parameters(points):
        check_binding(parameter, place)
        for beginning, instead in REFUSED.items():
            if complete_name(parameter).startswith(beginning):
                raise ConfigError(f"{place}: {parameter} cannot differ between settings. {instead}")
    if twice := _twice(point.points[name] for point in points):
        raise ConfigError(f"{place} has {', '.join(twice)} twice.")
    return points


def _parameters(points: Iterable[Setting]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parameter for point in points for parameter in point.bindings))


def _bundle(point: Mapping[str, Any] | str, budget: tuple[str, ...]) -> Bindings:
    """What a label stands for: its bindings, or those of a gin file that are no matter of the grid as a whole."""
    if isinstance(point, Mapping):
        return dict(point)
    named = {complete_name(name): (name, value) for name, value in bindings_in_file(point).items()}
    return dict(own for name, own in named.items() if name in budget or not name.startswith(OF_THE_GRID))


def _exclusions(excluded: Any, points: Mapping[str, list[Setting]]) -> list[dict[str, str]]:
    """What is left out, as axis -> text of a point."""
    if not isinstance(excluded, (tuple, list)) or not all(isinstance(out, Mapping) and out for out in excluded):
        raise ConfigError(f"Grid.exclude must be a tuple of {{axis: point}}, not {excluded!r}.")
    exclusions = [{str(axis): str(point) for axis, point in out.items()} for out in excluded]
    for axis, text in ((axis, text) for out in exclusions for axis, text in out.items()):
        if axis not in points:
            raise ConfigError(f"Grid.exclude names the axis '{axis}'. {nearest(axis, points)}")
        known = [point.points[axis] for point in points[axis]]
        if text not in known:
            raise ConfigError(f"Grid.exclude names '{text}' on the axis '{axis}'. {nearest(text, known)}")
    return exclusions
