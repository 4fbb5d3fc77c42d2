"""The bounds of a dataset's actions: policies act in [-1, 1], which an environment's wrapper stretches to its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Columns, float_column
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
        rows_outside: rows with an action outside of [-1, 1].
        low, high: ends (A,) of the actions, of those that are numbers; `text` says the least and largest.
        stored: bounds (A,) or () that the dataset says they are recorded in; None where it does not.
        note: why they are not in [-1, 1]: by their values, or by what the dataset says; empty where nothing says so.
    """

    def __init__(self, columns: Columns) -> None:
        actions, most = columns.actions, 1.0 + ROUNDING
        self.rows_outside = int(((actions < -most) | (actions > most)).any(axis=1).sum())
        self.low, self.high = np.fmin.reduce(actions), np.fmax.reduce(actions)
        self.text = f"they reach from {self.low.min():.4g} to {self.high.max():.4g}"
        self.stored: NDArray[np.float64] | None = None
        with suppress(KeyError, ValueError, TypeError, OverflowError, RecursionError):
            stored = np.array(json.loads(columns.metadata[BOUNDS_METADATA])["stored"], dtype=np.float64)
            if len(np.atleast_1d(stored)) == 2 and stored.ndim <= 2:
                self.stored = stored
        self.note = ""
        if self.rows_outside:
            self.note = f"actions of {self.rows_outside:,} row(s) lie outside of [-1, 1]: {self.text}"
        elif self.stored is not None and not is_unit(*self.stored):
            self.note = f"actions are recorded in {bounds_text(*self.stored)}, as the dataset says, not in [-1, 1]"


@dataclass(frozen=True)
class ActionRule:
    """How a dataset's actions are meant, a name in `RULES`; the environment's bounds (A,), empty where not needed."""

    name: str = "as_is"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def origin(self) -> dict[str, Any]:
        """What `Provenance` says of it: the rule, and what -1 and 1 stand for."""
        low, high = ((), ()) if is_unit(self.low, self.high) else (self.low, self.high)
        return {"action_rule": self.name, "action_low": low, "action_high": high}


def action_rule(task: Task, name: str) -> ActionRule:
    """The rule of that name, with the bounds of the task's environment; a ConfigError where either cannot be had."""
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"load_dataset.action_bounds cannot be {name!r}. {nearest_of_few(str(name), RULES)}")
    low, high = ([], []) if name == "as_is" else action_bounds(task)
    if name == "env" and not np.isfinite([low, high]).all():
        raise ConfigError(f"load_dataset.action_bounds='env' cannot rescale from {bounds_text(low, high)}.")
    return ActionRule(name, tuple(low), tuple(high))


def unit_actions(columns: Columns, rule: ActionRule) -> Actions:
    """Actions (n, A) by the rule; a DataError where one is not finite, or they are not as the rule wants them."""
    return RULES[rule.name](columns, float_column(columns, "actions"), rule)


def _as_shares(columns: Columns, actions: Actions, rule: ActionRule) -> Actions:
    """They are shares of the environment's bounds, in [-1, 1]."""
    found, own = ActionRange(columns), bounds_text(rule.low, rule.high)
    if found.note:
        said = f"{found.note}. Policies act in [-1, 1]: {BOUNDS_ADVICE}. The environment's bounds are {own}"
        raise DataError(f"{columns.where}: {said}.")
    low, high = np.array(rule.low), np.array(rule.high)
    narrow = found.stored is None and np.any((low > -1.0) | (high < 1.0))
    if narrow and np.all((found.low >= low - ROUNDING) & (found.high <= high + ROUNDING)):
        said = f"all actions lie within the environment's own bounds, {own}, and it does not say whether they are meant"
        raise DataError(f"{columns.where}: {said} so or as shares of them, in [-1, 1]. {BOUNDS_ADVICE}.")
    return actions


def _rescaled(columns: Columns, actions: Actions, rule: ActionRule) -> Actions:
    """They are in the environment's own units, and rescaled to [-1, 1], what is rounding clipped."""
    low, high, found = np.array(rule.low), np.array(rule.high), ActionRange(columns)
    own = f"the environment's bounds, {bounds_text(rule.low, rule.high)}"
    if found.stored is not None and is_unit(*found.stored) and not is_unit(rule.low, rule.high):
        said = f"actions are recorded in [-1, 1], as the dataset says, not in {own}"
        raise DataError(f"{columns.where}: {said}: leave off load_dataset.action_bounds='env'.")
    unit = np.where(high > low, to_unit(actions, low, high), actions - low)  # how far from an only value
    if rows := int((np.abs(unit) > 1.0 + ROUNDING).any(axis=1).sum()):
        said = f"actions of {rows:,} row(s) lie outside of {own}: {found.text}. Is it another environment's?"
        raise DataError(f"{columns.where}: {said} load_dataset.action_bounds='as_is' takes them as they are.")
    return np.asarray(np.clip(unit, -1.0, 1.0), dtype=np.float32)


AS_IS = ActionRule()
RULES: dict[str, Callable[[Columns, Actions, ActionRule], Actions]]
RULES = {"unit": _as_shares, "env": _rescaled, "as_is": lambda columns, actions, rule: actions}


def bounds_text(low: Ends, high: Ends) -> str:
    """Bounds as text: one pair where all dimensions have the same."""
    pairs = [f"[{a:g}, {b:g}]" for a, b in zip(np.atleast_1d(low), np.atleast_1d(high), strict=True)]
    return pairs[0] if len(set(pairs)) == 1 else " x ".join(pairs)


def is_unit(low: Ends, high: Ends) -> bool:
    """Whether bounds are [-1, 1] in every dimension."""
    return bool(np.all(np.equal(low, -1.0)) and np.all(np.equal(high, 1.0)))
