"""The bounds of a dataset's actions: policies act in [-1, 1], which an environment's wrapper stretches to its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Columns, float_column
from dqlab.envs.custom import action_bounds
from dqlab.envs.tasks import Task, to_unit
from dqlab.errors import ConfigError, DataError, nearest_of_few

Array = NDArray[np.float64]
Ends = Array | Sequence[float]
ROUNDING = 1e-5
"""Actions may be so much larger than 1."""
BOUNDS_METADATA = "action_bounds"
"""Metadata in which a dataset says, as JSON, in which bounds its actions are `stored`: [low, high]."""
BOUNDS_ADVICE = (
    "load_dataset.action_bounds='env' rescales from the environment's bounds to [-1, 1], 'as_is' takes them as they are"
)


@dataclass(frozen=True)
class ActionRule:
    """Which actions a dataset may have, and what becomes of them.

    Attributes:
        name: `unit`, `env` or `as_is`, as `load_dataset` explains them.
        low, high: the environment's bounds (A,); empty where they are not needed.
    """

    name: str = "as_is"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def origin(self) -> dict[str, Any]:
        """What `Provenance` says of it: the rule, and what -1 and 1 stand for."""
        low, high = ((), ()) if is_unit(self.low, self.high) else (self.low, self.high)
        return {"action_rule": self.name, "action_low": low, "action_high": high}


def action_rule(task: Task, name: str) -> ActionRule:
    """The rule of that name, with the bounds of the task's environment.

    Raises:
        ConfigError: there is no such rule, or the environment cannot be made.
    """
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"load_dataset.action_bounds cannot be {name!r}. {nearest_of_few(str(name), RULES)}")
    low, high = ([], []) if name == "as_is" else action_bounds(task)
    if name == "env" and not np.isfinite([low, high]).all():
        raise ConfigError(f"load_dataset.action_bounds='env' cannot rescale from {bounds_text(low, high)}.")
    return ActionRule(name, tuple(low), tuple(high))


def unit_actions(columns: Columns, rule: ActionRule) -> NDArray[np.float32]:
    """Actions (n, A) by the rule.

    Raises:
        DataError: a value is not finite, or actions are not as the rule wants them.
    """
    change, complaint = RULES[rule.name]
    actions = float_column(columns.where, "actions", columns.actions)
    changed = change(actions, rule)
    beyond = int((np.abs(changed) > 1.0 + ROUNDING).any(axis=1).sum())
    found = ActionRange(beyond, actions.min(axis=0), actions.max(axis=0), stored_bounds(columns.metadata))
    if said := complaint(found, rule):
        raise DataError(f"{columns.where}: {said}.")
    return changed


AS_IS = ActionRule()


@dataclass(frozen=True)
class ActionRange:
    """What is known of a dataset's actions.

    Attributes:
        rows_outside: rows with an action outside of [-1, 1], as the rule has changed them.
        low, high: ends (A,) of the actions as recorded.
        stored: bounds (A,) or () that the dataset says they are recorded in; None where it does not.
    """

    rows_outside: int
    low: Array
    high: Array
    stored: tuple[Array, Array] | None = None

    @property
    def range_text(self) -> str:
        """Least and largest action as text."""
        return f"they reach from {self.low.min():.4g} to {self.high.max():.4g}"


def action_bounds_note(found: ActionRange) -> str:
    """Why actions are not in [-1, 1]: by their values, or by what the dataset says; empty where nothing says so."""
    if found.rows_outside:
        return f"actions of {found.rows_outside:,} row(s) lie outside of [-1, 1]: {found.range_text}"
    if found.stored is None or is_unit(*found.stored):
        return ""
    return f"actions are recorded in {bounds_text(*found.stored)}, as the dataset says, not in [-1, 1]"


def stored_bounds(metadata: Mapping[str, str]) -> tuple[Array, Array] | None:
    """The bounds in which a dataset says that its actions are recorded; None where it does not."""
    try:
        low, high = np.array(json.loads(metadata[BOUNDS_METADATA])["stored"], dtype=np.float64)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return (low, high) if np.ndim(low) <= 1 else None


def bounds_text(low: Ends, high: Ends) -> str:
    """Bounds as text: one pair where all dimensions have the same."""
    pairs = [f"[{a:g}, {b:g}]" for a, b in zip(np.atleast_1d(low), np.atleast_1d(high), strict=True)]
    return pairs[0] if len(set(pairs)) == 1 else " x ".join(pairs)


def is_unit(low: Ends, high: Ends) -> bool:
    """Whether bounds are [-1, 1] in every dimension."""
    return bool(np.all(np.equal(low, -1.0)) and np.all(np.equal(high, 1.0)))


def _unchanged(actions: NDArray[np.float32], rule: ActionRule) -> NDArray[np.float32]:
    return actions


def _rescaled(actions: NDArray[np.float32], rule: ActionRule) -> NDArray[np.float32]:
    """In [-1, 1], what is rounding clipped; where a dimension has one value only, how far an action is from it."""
    low, high = np.array(rule.low), np.array(rule.high)
    unit = np.where(high > low, to_unit(actions, low, high), actions - low)
    return np.asarray(np.where(np.abs(unit) > 1.0 + ROUNDING, unit, np.clip(unit, -1.0, 1.0)), dtype=np.float32)


def _not_unit(found: ActionRange, rule: ActionRule) -> str:
    """Why actions cannot be taken for such in [-1, 1]; empty where they can."""
    if said := action_bounds_note(found):
        own = bounds_text(rule.low, rule.high)
        return f"{said}. Policies act in [-1, 1]: {BOUNDS_ADVICE}. The environment's bounds are {own}"
    if found.stored is not None:
        return ""
    narrow = np.any((np.array(rule.low) > -1.0) | (np.array(rule.high) < 1.0))
    if not narrow or np.any(
        (found.low < np.array(rule.low) - ROUNDING) | (found.high > np.array(rule.high) + ROUNDING)
    ):
        return ""
    return (
        f"all actions lie within the environment's own bounds, {bounds_text(rule.low, rule.high)}, and it does not say "
        f"whether they are meant so or as shares of them, in [-1, 1]. {BOUNDS_ADVICE}"
    )


def _not_environments(found: ActionRange, rule: ActionRule) -> str:
    """Why actions cannot be rescaled from the environment's bounds; empty where they can."""
    own = bounds_text(rule.low, rule.high)
    if found.stored is not None and is_unit(*found.stored) and not is_unit(rule.low, rule.high):
        return (
            f"actions are recorded in [-1, 1], as the dataset says, not in the environment's {own}: "
            "leave off load_dataset.action_bounds='env'"
        )
    if not found.rows_outside:
        return ""
    return (
        f"actions of {found.rows_outside:,} row(s) lie outside of the environment's bounds, {own}: {found.range_text}. "
        "Is it another environment's? load_dataset.action_bounds='as_is' takes them as they are"
    )


RULES: dict[
    str,
    tuple[Callable[[NDArray[np.float32], ActionRule], NDArray[np.float32]], Callable[[ActionRange, ActionRule], str]],
] = {
    "unit": (_unchanged, _not_unit),
    "env": (_rescaled, _not_environments),
    "as_is": (_unchanged, lambda found, rule: ""),
}
"""What becomes of actions (n, A), and what is wrong with those that were read; empty for nothing."""
