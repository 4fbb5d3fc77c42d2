"""Which components the settings of a grid use, for the works that its report cites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from dqlab.analysis.results import UsedComponent
from dqlab.config.catalogue import gin_parameters
from dqlab.config.gin_syntax import parse_bindings
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.runs.experiment import Experiment

Bound = Mapping[str, set[Any]]
"""`Configurable.parameter` -> every value that the file or one of the axes' points gives it."""


def components_used(gin: str, algorithms: Set[str]) -> tuple[UsedComponent, ...]:
    """The components that at least one cell uses, algorithms first.

    Args:
        gin: the grid's configuration, flattened; from one that cannot be read only the defaults and algorithms follow.
        algorithms: names that finished cells have been trained with.
    """
    bound = _bound(gin)
    bound["Experiment.algorithm"] = bound.get("Experiment.algorithm", set()) | algorithms or {Experiment.algorithm}
    used: dict[tuple[str, str], RegistryEntry[Any]] = {}
    _follow("Experiment", {"algorithm": Experiment.algorithm, "physics": Experiment.physics}, bound, used)
    _follow("Grid", {"engine": ""}, bound, used)
    return tuple(UsedComponent(entry.name, entry.source, entry.cites) for entry in used.values())


def _follow(
    owner: str, parameters: Mapping[str, Any], bound: Bound, used: dict[tuple[str, str], RegistryEntry[Any]]
) -> None:
    """Add the components that the parameters of a configurable choose, and theirs in turn."""
    for registry, entry in _chosen(owner, parameters, bound):
        if (registry.kind, entry.name) not in used:
            used[registry.kind, entry.name] = entry
            _follow(entry.gin_name, gin_parameters(registry, entry), bound, used)


def _chosen(
    owner: str, parameters: Mapping[str, Any], bound: Bound
) -> Iterator[tuple[Registry[Any], RegistryEntry[Any]]]:
    for parameter, default in parameters.items():
        values = bound.get(f"{owner}.{parameter}", {default} if isinstance(default, str) else set())
        for registry in _chosen_by(parameter):
            yield from ((registry, registry.entry(str(value))) for value in values if value in registry)


def _chosen_by(parameter: str) -> list[Registry[Any]]:
    """Registries whose components are chosen by a parameter of that name."""
    return [each for each in list(Registry.kinds.values()) if each.chosen_by.rpartition(".")[2] == parameter]


def _bound(text: str) -> dict[str, set[Any]]:
    """Values of the file; a parameter that an axis sets has those of the axis, too."""
    try:
        flat = parse_bindings(text)
    except (SyntaxError, ValueError):
        return {}
    bound: dict[str, set[Any]] = {}
    for name, value in [*flat.items(), *_of_axes(flat.get("Grid.axes", {}))]:
        owner, _, parameter = name.rpartition("/")[2].rpartition(".")
        if isinstance(value, str):
            bound.setdefault(f"{owner.rpartition('.')[2]}.{parameter}", set()).add(value)
    return bound


def _of_axes(axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Every binding of every point."""
    for axis in axes.values():
        for name, value in axis.items():
            listed = {name: value} if not isinstance(value, Mapping) else value
            for parameter, values in listed.items():
                yield from ((parameter, each) for each in (values if isinstance(values, (tuple, list)) else [values]))
