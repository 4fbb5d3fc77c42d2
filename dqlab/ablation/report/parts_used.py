"""Which registered parts a grid's cells used, told from its gin text: algorithms, and what their parameters choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dqlab import configuration
from dqlab.ablation.results import GridResults
from dqlab.catalogue import settings
from dqlab.experiment import Experiment
from dqlab.registry import Entry, Registry

Bound = Mapping[str, set[Any]]
"""`Configurable.parameter` -> every value that the file or one of the axes' points gives it."""


def parts_used(results: GridResults) -> list[Entry[Any]]:
    """The parts that at least one cell uses, algorithms first; none of a gin text that cannot be read."""
    bound = _bound(results.gin)
    named = {str(result.summary["algorithm"]) for result in results.results if "algorithm" in result.summary}
    bound["Experiment.algorithm"] = bound.get("Experiment.algorithm", set()) | named or {Experiment.algorithm}
    used: dict[tuple[str, str], Entry[Any]] = {}
    _follow("Experiment", {"algorithm": Experiment.algorithm, "physics": Experiment.physics}, bound, used)
    _follow("Grid", {"engine": ""}, bound, used)
    return list(used.values())


def _follow(owner: str, parameters: Mapping[str, Any], bound: Bound, used: dict[tuple[str, str], Entry[Any]]) -> None:
    """Add the parts that the parameters of a configurable choose, and theirs in turn."""
    for registry, part in _chosen(owner, parameters, bound):
        if (registry.kind, part.name) not in used:
            used[registry.kind, part.name] = part
            _follow(part.gin_name, settings(registry, part), bound, used)


def _chosen(owner: str, parameters: Mapping[str, Any], bound: Bound) -> Iterator[tuple[Registry[Any], Entry[Any]]]:
    for parameter, default in parameters.items():
        values = bound.get(f"{owner}.{parameter}", {default} if isinstance(default, str) else set())
        for registry in _chosen_by(parameter):
            yield from ((registry, registry.entry(str(value))) for value in values if value in registry)


def _chosen_by(parameter: str) -> list[Registry[Any]]:
    """Registries whose parts are chosen by a parameter of that name."""
    return [each for each in list(Registry.kinds.values()) if each.chosen_by.rpartition(".")[2] == parameter]


def _bound(text: str) -> dict[str, set[Any]]:
    """Values of the file; a parameter that an axis sets has those of the axis, too."""
    try:
        flat = configuration.flat(text)
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
