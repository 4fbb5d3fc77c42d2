"""The bounds of a dataset's actions: policies act in [-1, 1], which an environment's wrapper stretches to its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Column, Columns, float_column
from dqlab.envs.custom import action_bounds
from dqlab.envs.tasks import Task, to_unit
from dqlab.errors import ConfigError, DataError, nearest_of_few

Actions = NDArray[np.float32]
Ends = NDArray[np.float64] | Sequence[float]
ROUNDING = 1e-5  # actions may be so much larger than 1
BOUNDS_METADATA = "action_bounds"  # in which a dataset says, as JSON, how its actions are `stored`: [low, high]
BOUNDS_ADVICE = (
    "load_dataset.action_bounds='env' rescales from the environment's bounds to [-1, 1], 'as_is' takes them as they are"
)


class ActionRange:
    """How far a dataset's actions reach, and what it says of them.

    Attributes:
        rows_outside: rows with an action outside of [-1, 1], as a rule has changed them.
        low, high: ends (A,) of the actions as recorded, of those that are numbers; `text` says the least and largest.
        stored: bounds (A,) or () that the dataset says they are recorded in; None where it does not.
    """

    def __init__(self, columns: Columns, changed: Column | None = None) -> None:
        seen = columns.actions if changed is None else changed
        self.rows_outside = int((np.abs(seen) > 1.0 + ROUNDING).any(axis=1).sum())
        self.low, self.high = np.fmin.reduce(columns.actions), np.fmax.reduce(columns.actions)
        self.text = f"they reach from {self.low.min():.4g} to {self.high.max():.4g}"
        self.stored: NDArray[np.float64] | None = None
        with suppress(KeyError, ValueError, TypeError, OverflowError, RecursionError):
            stored = np.array(json.loads(columns.metadata[BOUNDS_METADATA])["stored"], dtype=np.float64)
            if len(np.atleast_1d(stored)) == 2 and stored.ndim <= 2:
                self.stored = stored

    @property
    def note(self) -> str:
        """Why actions are not in [-1, 1]: by their values, or by what the dataset says; empty where nothing says so."""
        if self.rows_outside:
            return f"actions of {self.rows_outside:,} row(s) lie outside of [-1, 1]: {self.text}"
        if self.stored is None or is_unit(*self.stored):
            return ""
        return f"actions are recorded in {bounds_text(*self.stored)}, as the dataset says, not in [-1, 1]"


@dataclass(frozen=True)
class ActionRule:
    """Which actions a dataset may have, and what becomes of them; this one takes them as they are.

    `low` and `high` are the environment's bounds (A,); empty where they are not needed.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    name: ClassVar[str] = "as_is"

    def change(self, actions: Actions) -> Actions:
        """What becomes of actions (n, A)."""
        return actions

    def complaint(self, found: ActionRange) -> str:
        """What is wrong with those that were read; empty for nothing."""
        return ""

    def origin(self) -> dict[str, Any]:
        """What `Provenance` says of it: the rule, and what -1 and 1 stand for."""
        low, high = ((), ()) if is_unit(self.low, self.high) else (self.low, self.high)
        return {"action_rule": self.name, "action_low": low, "action_high": high}


class UnitRule(ActionRule):
    """They are shares of the environment's bounds, in [-1, 1]."""

    name = "unit"

    def complaint(self, found: ActionRange) -> str:
        own, low, high = bounds_text(self.low, self.high), np.array(self.low), np.array(self.high)
        if found.note:
            return f"{found.note}. Policies act in [-1, 1]: {BOUNDS_ADVICE}. The environment's bounds are {own}"
        narrow = found.stored is None and np.any((low > -1.0) | (high < 1.0))
        if not narrow or np.any((found.low < low - ROUNDING) | (found.high > high + ROUNDING)):
            return ""
        said = f"all actions lie within the environment's own bounds, {own}, and it does not say whether they are meant"
        return f"{said} so or as shares of them, in [-1, 1]. {BOUNDS_ADVICE}"


class EnvironmentRule(ActionRule):
    """They are in the environment's own units, and rescaled to [-1, 1]."""

    name = "env"

    def change(self, actions: Actions) -> Actions:
        """In [-1, 1], what is rounding clipped; where a dimension has one value only, how far an action is from it."""
        low, high = np.array(self.low), np.array(self.high)
        unit = np.where(high > low, to_unit(actions, low, high), actions - low)
        return np.asarray(np.where(np.abs(unit) > 1.0 + ROUNDING, unit, np.clip(unit, -1.0, 1.0)), dtype=np.float32)

    def complaint(self, found: ActionRange) -> str:
        own = bounds_text(self.low, self.high)
        if found.stored is not None and is_unit(*found.stored) and not is_unit(self.low, self.high):
            said = f"actions are recorded in [-1, 1], as the dataset says, not in the environment's {own}"
            return f"{said}: leave off load_dataset.action_bounds='env'"
        if not found.rows_outside:
            return ""
        said = f"actions of {found.rows_outside:,} row(s) lie outside of the environment's bounds, {own}: {found.text}"
        return f"{said}. Is it another environment's? load_dataset.action_bounds='as_is' takes them as they are"


AS_IS = ActionRule()
RULES = {rule.name: rule for rule in (UnitRule, EnvironmentRule, ActionRule)}


def action_rule(task: Task, name: str) -> ActionRule:
    """The rule of that name, with the bounds of the task's environment; a ConfigError where either cannot be had."""
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"load_dataset.action_bounds cannot be {name!r}. {nearest_of_few(str(name), RULES)}")
    low, high = ([], []) if name == "as_is" else action_bounds(task)
    if name == "env" and not np.isfinite([low, high]).all():
        raise ConfigError(f"load_dataset.action_bounds='env' cannot rescale from {bounds_text(low, high)}.")
    return RULES[name](tuple(low), tuple(high))


def unit_actions(columns: Columns, rule: ActionRule) -> Actions:
    """Actions (n, A) by the rule; a DataError where one is not finite, or they are not as the rule wants them."""
    changed = rule.change(float_column(columns, "actions"))
    if said := rule.complaint(ActionRange(columns, changed)):
        raise DataError(f"{columns.where}: {said}.")
    return changed


def bounds_text(low: Ends, high: Ends) -> str:
    """Bounds as text: one pair where all dimensions have the same."""
    pairs = [f"[{a:g}, {b:g}]" for a, b in zip(np.atleast_1d(low), np.atleast_1d(high), strict=True)]
    return pairs[0] if len(set(pairs)) == 1 else " x ".join(pairs)


def is_unit(low: Ends, high: Ends) -> bool:
    """Whether bounds are [-1, 1] in every dimension."""
    return bool(np.all(np.equal(low, -1.0)) and np.all(np.equal(high, 1.0)))
