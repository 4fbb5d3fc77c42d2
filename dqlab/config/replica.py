"""A replica: one training of a pack, known by its name; its seed, its place in a grid, and the scalars that it sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dqlab.errors import ConfigError, nearest


@dataclass(frozen=True)
class Replica:
    """One training of a pack.

    Attributes:
        name: of its folder in the run's folder, and of its records.
        seed: of its initial networks and its noise.
        cell: label of the ablation's cell that it is; empty where it is none.
        points: the cell's place on each axis, axis name -> text.
        bindings: scalar hyper-parameters that it sets, gin name -> number.
    """

    name: str
    seed: int
    cell: str = ""
    points: Mapping[str, str] = field(default_factory=dict)
    bindings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mapped = isinstance(self.points, Mapping) and isinstance(self.bindings, Mapping)
        wanted = {
            "its name must be letters, digits and ._=+- only": re.fullmatch(r"\w[\w.=+-]*", self.name),
            f"seed must be an integer >= 0 (and below 2**32), not {self.seed!r}": is_seed(self.seed),
            f"cell must be a text, not {self.cell!r}": isinstance(self.cell, str),
            "points and set must be dictionaries": mapped,
        }
        if faults := [text for text, holds in wanted.items() if not holds]:
            raise ConfigError(f"Experiment.replicas['{self.name}']: {faults[0]}.")

    @classmethod
    def plain(cls, seed: int, cell: str = "") -> Replica:
        """A seed of an ordinary run."""
        return cls(f"seed-{seed}", seed, cell)

    @classmethod
    def read(cls, name: str, given: Any) -> Replica:
        """A replica as gin says it, and run.json: `{'seed': 0, 'cell': '...', 'points': {...}, 'set': {...}}`."""
        place, keys = f"Experiment.replicas['{name}']", ("seed", "cell", "points", "set")
        if not isinstance(given, Mapping) or "seed" not in given:
            wanted = "{'seed': ..., 'cell': ..., 'points': ..., 'set': ...}"
            raise ConfigError(f"{place} must be {wanted}, not {given!r}.")
        if unknown := [str(key) for key in given if key not in keys]:
            raise ConfigError(f"{place} has no '{unknown[0]}'. {nearest(unknown[0], keys)}")
        return cls(str(name), given["seed"], given.get("cell", ""), given.get("points", {}), given.get("set", {}))

    def as_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "cell": self.cell, "points": dict(self.points), "set": dict(self.bindings)}

    @property
    def title(self) -> str:
        """What a person calls it: `seed 0`, `eta=0.5, seed 0`."""
        return f"{self.cell}, seed {self.seed}" if self.cell else f"seed {self.seed}"


def replicas_of(facts: Mapping[str, Any]) -> list[Replica]:
    """A run's replicas, as its run.json has them; where they have no names yet, by their seeds."""
    named = facts.get("replicas") or {f"seed-{seed}": {"seed": seed} for seed in facts["seeds"]}
    return [Replica.read(name, given) for name, given in named.items()]


def is_seed(value: Any) -> bool:
    """Whether a value can seed a replica."""
    return type(value) is int and 0 <= value < 2**32
