"""Grids: which settings of a base experiment are compared, as data in a gin file.

    include 'gin/diffql_walker2d.gin'
    Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2, 5, 10, 20)}}

A cell is one point of the grid: a label, and the bindings that it adds to those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from dqlab.configuration import check_binding
from dqlab.errors import MANY, ConfigError, nearest
from dqlab.fields import check_fields
from dqlab.registry import configurable

Bindings = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One experiment of a grid: its label, such as `N=5, eta=1.0`, what it sets, and other ways to say its label."""

    label: str
    bindings: Bindings
    aliases: tuple[str, ...] = ()

    def as_text(self) -> list[str]:
        """The bindings as gin statements, the record of its label among them."""
        return [f"{name} = {value!r}" for name, value in {**self.bindings, "Experiment.cell": self.label}.items()]


@configurable("ablation")
@dataclass(frozen=True)
class Grid:
    """What is compared with what; a grid file includes a base experiment and sets these.

    Attributes:
        axes: axis name -> either one parameter and its values, `{'DiffusionQL.eta': (0.5, 1.0)}`; or labels and the
            bindings that each stands for, `{'BC': {'Experiment.algorithm': 'bc'}, 'Diffusion-QL': {}}`.
        tasks: tasks to run every cell on; the base experiment's if empty.
        seeds: replicas of every cell.
        base: label of the cell that others are compared with; the first one if empty.
    """

    axes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.axes, Mapping) or not self.axes:
            raise ConfigError("Grid.axes is empty. Include a grid file, for example ablations/steps.gin.")
        labels = [cell.label for cell in self.cells()]
        if self.base and self.base not in labels:
            raise ConfigError(f"Grid.base='{self.base}' is no cell. {nearest(self.base, labels)}")

    def cells(self) -> list[Setting]:
        """Every combination of the axes' points, the last axis varying fastest.

        Raises:
            ConfigError: an axis is neither a parameter with values nor labels with bindings, or sets what is unknown.
        """
        return [_combined(points) for points in product(*(_points(name, axis) for name, axis in self.axes.items()))]

    def cell(self, label: str) -> Setting:
        """The cell of that label, or of the label with the axes' names: `BC` or `algorithm=BC`.

        Raises:
            ConfigError: there is none; the message names the cells.
        """
        cells = self.cells()
        found = next((cell for cell in cells if label in (cell.label, *cell.aliases)), None)
        if found is None:
            known = "; ".join(repr(cell.label) for cell in cells[:MANY]) + ("; ..." if len(cells) > MANY else "")
            raise ConfigError(f"The grid has no cell '{label}'. It has {known}.")
        return found


def _combined(points: tuple[Setting, ...]) -> Setting:
    label, aliases = (", ".join(names) for names in zip(*((p.label, *p.aliases) for p in points), strict=True))
    return Setting(label, {name: value for point in points for name, value in point.bindings.items()}, (aliases,))


def _points(name: str, axis: Any) -> list[Setting]:
    """An axis' points, as cells of their own."""
    if not isinstance(axis, Mapping) or not axis:
        raise ConfigError(f"Grid.axes['{name}'] must be {{parameter: values}} or {{label: bindings}}, not {axis!r}.")
    points = (
        _labelled(name, axis) if all(isinstance(value, Mapping) for value in axis.values()) else _listed(name, axis)
    )
    for point in points:
        for parameter in point.bindings:
            check_binding(parameter, f"Grid.axes['{name}']")
    return points


def _labelled(name: str, axis: Mapping[str, Mapping[str, Any]]) -> list[Setting]:
    return [Setting(label, dict(bindings), (f"{name}={label}",)) for label, bindings in axis.items()]


def _listed(name: str, axis: Mapping[str, Any]) -> list[Setting]:
    (parameter, values), *others = axis.items()
    if others or not isinstance(values, (tuple, list)) or not values:
        raise ConfigError(f"Grid.axes['{name}'] must give one parameter a tuple of values, not {dict(axis)!r}.")
    return [Setting(f"{name}={value}", {parameter: value}, (f"{name}={value}",)) for value in values]
