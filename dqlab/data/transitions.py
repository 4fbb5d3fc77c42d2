"""Transitions as algorithms get them: what actions mean, how rows become them, on which device, where they come from.

Policies act in [-1, 1], which an environment's wrapper stretches to its own bounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqlab.data.formats.base import Columns, boolean_column, float_column
from dqlab.data.rewards import RewardTransform
from dqlab.envs.custom import action_bounds
from dqlab.envs.tasks import Task, to_unit
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.machine import free_memory, in_words

FloatArray = NDArray[np.float32]
Flags = NDArray[np.bool_]
Ends = NDArray[np.float64] | Sequence[float]
ROUNDING = 1e-5  # actions may be so much larger than 1
BOUNDS_METADATA = "action_bounds"  # in which a dataset says, as JSON, how its actions are `stored`: [low, high]
BOUNDS_ADVICE = (
    "load_dataset.action_bounds='env' rescales from the environment's bounds to [-1, 1], 'as_is' takes them as they are"
)


class Batch(NamedTuple):
    """Transitions: state (B, S), action (B, A), next_state (B, S), and these.

    Attributes:
        reward: (B,); with action chunks of h > 1 the rewards of the h steps, (B, h), 0 after a terminal one.
        terminal: (B,), 1.0 where no value follows and 0.0 elsewhere: the mask of bootstrapping is 1 - terminal.
        next_action: (B, A), what the data did in next_state; where an algorithm asks for it (`reads_next_action`).
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor
    next_action: Tensor | None = None


@dataclass(frozen=True)
class Transitions:
    """A dataset of n transitions, float tensors on one device: fields as in `Batch`, and where they come from."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor
    provenance: Provenance
    next_action: Tensor | None = None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def fields(self) -> Batch:
        """All transitions, as one batch."""
        return Batch(self.state, self.action, self.reward, self.next_state, self.terminal, self.next_action)

    def batch(self, index: Tensor) -> Batch:
        """The transitions at index (K, B), gathered on the device: fields (K, B, ...)."""
        return gather_rows(self.fields, index)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Transitions:
        """The same transitions elsewhere, the same memory where nothing changes; a DataError where there is no room."""
        device = torch.device(device)
        moves = (self.state.device.type, self.state.dtype) != (device.type, dtype)
        needed = sum(field.numel() for field in self.fields if field is not None) * dtype.itemsize
        if moves and device.type != "meta" and needed > (free := free_memory(device)):
            room = f"The dataset takes {in_words(needed)} as {dtype}, {device} has {in_words(free)} free"
            raise DataError(f"{room}; it must lie where networks are computed. Use a smaller dataset, or the CPU.")
        fields = map_fields(lambda field: field.to(device, dtype), self.fields)
        return Transitions(**fields._asdict(), provenance=self.provenance)


def map_fields(function: Callable[[Tensor], Tensor], fields: Batch) -> Batch:
    """A function of every field that there is."""
    return Batch(*(None if field is None else function(field) for field in fields))  # type: ignore[arg-type]


def gather_rows(fields: Batch, index: Tensor) -> Batch:
    """The rows of a batch (n, ...) at index (K, B): fields (K, B, ...)."""
    return map_fields(lambda field: field[index], fields)


class ActionRange:
    """How far a dataset's actions reach, and what it says of them."""

    def __init__(self, columns: Columns) -> None:
        actions, most = columns.actions, 1.0 + ROUNDING
        outside = int(((actions < -most) | (actions > most)).any(axis=1).sum())
        self.low, self.high = np.fmin.reduce(actions), np.fmax.reduce(actions)  # (A,), of those that are numbers
        self.text = f"they reach from {self.low.min():.4g} to {self.high.max():.4g}"
        self.stored: NDArray[np.float64] | None = None  # bounds (A,) or () that it says they are recorded in
        with suppress(KeyError, ValueError, TypeError, OverflowError, RecursionError):
            stored = np.array(json.loads(columns.metadata[BOUNDS_METADATA])["stored"], dtype=np.float64)
            if len(np.atleast_1d(stored)) == 2 and stored.ndim <= 2:
                self.stored = stored
        self.note = ""  # why they are not in [-1, 1]: by their values, or by what the dataset says
        if outside:
            self.note = f"actions of {outside:,} row(s) lie outside of [-1, 1]: {self.text}"
        elif self.stored is not None and not is_unit(*self.stored):
            self.note = f"actions are recorded in {bounds_text(*self.stored)}, as the dataset says, not in [-1, 1]"


RULES = ("unit", "env", "as_is")


@dataclass(frozen=True)
class ActionRule:
    """How a dataset's actions are meant, a name in `RULES`; the environment's bounds (A,), empty where not needed."""

    name: str = "as_is"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def action_rule(task: Task, name: str) -> ActionRule:
    """The rule of that name, with the bounds of the task's environment; a ConfigError where either cannot be had."""
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"load_dataset.action_bounds cannot be {name!r}. {nearest_of_few(str(name), RULES)}")
    low, high = ([], []) if name == "as_is" else action_bounds(task)
    if name == "env" and not np.isfinite([low, high]).all():
        raise ConfigError(f"load_dataset.action_bounds='env' cannot rescale from {bounds_text(low, high)}.")
    return ActionRule(name, tuple(low), tuple(high))


def unit_actions(columns: Columns, rule: ActionRule) -> FloatArray:
    """Actions (n, A) by the rule; a DataError where one is not finite, or they are not as the rule wants them.

    By `unit` they are shares of the environment's bounds, in [-1, 1]; by `env` they are in the environment's own units,
    and rescaled to [-1, 1], what is rounding clipped.
    """
    actions = float_column(columns, "actions")
    if rule.name == "as_is":
        return actions
    found, low, high = ActionRange(columns), np.array(rule.low), np.array(rule.high)
    own = bounds_text(low, high)
    if rule.name == "unit":
        if found.note:
            said = f"{found.note}. Policies act in [-1, 1]: {BOUNDS_ADVICE}. The environment's bounds are {own}"
            raise DataError(f"{columns.where}: {said}.")
        narrow = found.stored is None and np.any((low > -1.0) | (high < 1.0))
        if narrow and np.all((found.low >= low - ROUNDING) & (found.high <= high + ROUNDING)):
            said = f"all actions lie within the environment's own bounds, {own}, and it does not say whether they are"
            raise DataError(f"{columns.where}: {said} meant so or as shares of them, in [-1, 1]. {BOUNDS_ADVICE}.")
        return actions
    if found.stored is not None and is_unit(*found.stored) and not is_unit(low, high):
        said = f"actions are recorded in [-1, 1], as the dataset says, not in the environment's bounds, {own}"
        raise DataError(f"{columns.where}: {said}: leave off load_dataset.action_bounds='env'.")
    unit = np.where(high > low, to_unit(actions, low, high), actions - low)  # how far from an only value
    if len(rows := np.flatnonzero((np.abs(unit) > 1.0 + ROUNDING).any(axis=1))):
        said = f"actions of {len(rows):,} row(s) lie outside of the environment's bounds, {own}: {found.text}"
        mend = f"The first is row {rows[0]:,}: repair or drop such rows. Is it another environment's? "
        mend += "load_dataset.action_bounds='as_is' takes actions as they are."
        raise DataError(f"{columns.where}: {said}. {mend}")
    return np.asarray(np.clip(unit, -1.0, 1.0), dtype=np.float32)


def bounds_text(low: Ends, high: Ends) -> str:
    """Bounds as text: one pair where all dimensions have the same."""
    pairs = [f"[{a:g}, {b:g}]" for a, b in zip(np.atleast_1d(low), np.atleast_1d(high), strict=True)]
    return pairs[0] if len(set(pairs)) == 1 else " x ".join(pairs)


def is_unit(low: Ends, high: Ends) -> bool:
    """Whether bounds are [-1, 1] in every dimension."""
    return bool(np.all(np.equal(low, -1.0)) and np.all(np.equal(high, 1.0)))


def q_learning_view(
    columns: Columns,
    episode_limit: int,
    transform: RewardTransform,
    origin: dict[str, Any],
    standardise: bool = False,
    actions: ActionRule = ActionRule(),
    chunk: int = 1,
    next_action: bool = False,
) -> Transitions:
    """All transitions of a dataset.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        transform: applied to the rewards of the rows that are transitions by themselves.
        origin: what `Provenance` says of where they are from.
        standardise: whether states become (s - mean) / (std + 0.001) over the transitions'.
        actions: which ones there may be, and what becomes of them.
        chunk: h, steps of a transition (Q-chunking: Li, Zhou, Levine 2025, section 4): its action is h actions, one
            after the other; one begins at every row that h steps of one episode follow.
        next_action: whether transitions have the action, or chunk, that follows. Those that nothing follows, as where
            an episode was cut, are left out; terminal ones stay, with zeros.

    Raises:
        DataError: a value is NaN or infinite, actions are not as their rule wants them, or there is no transition.
    """
    terminals, rewards = boolean_column(columns, "terminals"), float_column(columns, "rewards")
    recorded = None if columns.timeouts is None else boolean_column(columns, "timeouts")
    cuts, _ = cuts_of(columns, terminals, recorded, episode_limit)
    solved = False if columns.masks is None else ~boolean_column(columns, "masks")
    keep, ends, valueless = transition_rows(columns, cuts), terminals | cuts, terminals | solved
    first = _first_rows(keep, ends, valueless, chunk, next_action)
    if not len(first):
        why = "an episode is cut at every row" if chunk == 1 else f"no episode has the {chunk} steps of an action chunk"
        raise DataError(f"{columns.where} has no transition: {why}.")
    steps, states = first[:, None] + np.arange(chunk), float_column(columns, "observations")
    state, last = states[first], first + chunk - 1
    known = columns.next_observations is not None
    next_state = float_column(columns, "next_observations")[last] if known else states[last + 1]
    mean, std = _standardise(state, next_state) if standardise else ((), ())
    all_actions, stops = unit_actions(columns, actions), valueless[steps]
    totals, terminal = np.cumsum(rewards, dtype=np.float64), stops.any(axis=1)
    returns = np.diff(totals[ends] if ends.any() else totals[-1:], prepend=0.0)  # of all rows, where no episode ends
    rescaled = np.asarray(transform(rewards[keep], returns), dtype=np.float32)
    before_the_end = np.cumsum(stops, axis=1) - stops == 0
    reward = rescaled[np.cumsum(keep)[steps] - 1] * before_the_end
    reward = reward[:, 0] if chunk == 1 else reward
    made = [state, all_actions[steps].reshape(len(first), -1), reward, next_state, terminal.astype(np.float32)]
    if next_action:
        following_action = all_actions[np.minimum(steps + chunk, len(columns) - 1)].reshape(len(first), -1)
        following_action[terminal] = 0.0
        made.append(following_action)
    counts: dict[str, Any] = {"rows": len(columns), "episodes": len(returns), "transitions": len(first)}
    counts |= {f"return_{what}": float(getattr(returns, what)()) for what in ("mean", "std", "min", "max")}
    provenance = Provenance(**origin, **counts, state_mean=mean, state_std=std)
    return Transitions(**Batch(*map(torch.from_numpy, made))._asdict(), provenance=provenance)


def cuts_of(columns: Columns, terminals: Flags, timeouts: Flags | None, episode_limit: int | None) -> tuple[Flags, str]:
    """Rows (n,) at which an episode was cut short, and what they are known by; none where nothing says so.

    As recorded; else where a next observation is not the next row's, as in what D4RL's `qlearning_dataset` returns; or
    else by the step limit, as that function counts: from 0 on the first row and after a cut, from 1 after a terminal.
    """
    if timeouts is not None:
        return timeouts, "recorded"
    cuts = np.zeros(len(terminals), dtype=bool)
    if columns.next_observations is not None:
        for start in range(0, len(cuts) - 1, AT_ONCE):
            inside = slice(start, min(start + AT_ONCE, len(cuts) - 1))
            following, given = columns.observations[1:][inside] + 0.0, columns.next_observations[inside]
            with np.errstate(invalid="ignore", over="ignore"):
                other = np.abs(following - given) > ANOTHER * (1.0 + np.abs(following))
            cuts[inside] = other.any(axis=1)
        cuts[-1] = True
        return cuts & ~terminals, "next observations"
    if episode_limit is None:
        return cuts, "unknown"
    start, count = 0, 0
    for end in [*np.flatnonzero(terminals).tolist(), len(terminals) - 1]:
        first = start + episode_limit - 1 - count
        cuts[first : end + 1 : episode_limit] = True
        start, count = end + 1, 0 if cuts[end] else 1
    return cuts, "step limit"


ANOTHER = 1e-4  # relative, from which on two observations are not the same one, rounded


def transition_rows(columns: Columns, cuts: Flags) -> Flags:
    """Which rows (n,) become transitions: all of them where next observations are recorded.

    Elsewhere, as in D4RL's `qlearning_dataset`, row i becomes (o_i, a_i, r_i, o_{i+1}, terminal_i), but for the last,
    which nothing follows, and those at which an episode was cut (`cuts`, (n,)): o_{i+1} belongs to the next episode.
    """
    if columns.next_observations is not None:
        return np.ones_like(cuts)
    return ~cuts & (np.arange(len(cuts)) < len(cuts) - 1)


def _first_rows(keep: Flags, ends: Flags, valueless: Flags, chunk: int, next_action: bool) -> NDArray[np.intp]:
    """The rows at which transitions begin, by flags (n,): which are transitions, end an episode, bootstrap nothing."""
    starts = ~_leads_to(~keep, chunk) & ~_leads_to(ends, chunk - 1)
    if next_action:
        last = np.arange(len(ends)) == len(ends) - 1  # whatever it says, nothing follows it
        starts &= _leads_to(valueless, chunk) | ~_leads_to(ends | last, 2 * chunk - 1)
    return np.flatnonzero(starts)


def _leads_to(flags: Flags, steps: int) -> Flags:
    """Whether one of that many rows from each row (n,) on is flagged, or there are not as many."""
    count = np.concatenate([[0], np.cumsum(flags)])
    last = np.arange(len(flags)) + steps
    return np.asarray((last > len(flags)) | (count[np.minimum(last, len(flags))] > count[:-1]))


STD_FLOOR = 1e-3  # added to the deviation that states are divided by (Fujimoto & Gu 2021, section 5)
AT_ONCE = 1 << 16  # rows that are looked at together; another number changes sums in their last bits


def _standardise(state: FloatArray, following: FloatArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Standardise states (n, S) in place, by their mean and deviation (with n), summed in float64; which these are."""
    blocks = [state[start : start + AT_ONCE] for start in range(0, len(state), AT_ONCE)]
    mean = np.asarray(sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(state))
    square = sum(np.square(block - mean).sum(axis=0) for block in blocks) / len(state)
    shift, scale = mean.astype(np.float32), (np.sqrt(square) + STD_FLOOR).astype(np.float32)
    for states in (state, following):
        states[...] = (states - shift) / scale
    return tuple(shift.tolist()), tuple(scale.tolist())


def caveat_of(is_d4rl: bool, synthetic: bool, note: str | None = None) -> str:
    """What must stand beside every score obtained with such data; empty for D4RL's own, and another benchmark's."""
    return note if note is not None else "" if is_d4rl else "synthetic" if synthetic else "not D4RL"


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from and what is in it."""

    source: str  # which data source gave it, such as `d4rl_cache`
    path: str  # the file; empty where there is none
    digest: str  # SHA-256 of the file, or of the rows
    is_d4rl: bool  # whether it is D4RL's own file, so that its scores may stand beside published ones
    rows: int
    episodes: int
    transitions: int  # of the Q-learning view of its rows
    return_mean: float  # of its episodes, undiscounted
    return_std: float
    return_min: float
    return_max: float
    skipped: tuple[str, ...] = ()  # why the sources that were to be asked first had nothing
    state_mean: tuple[float, ...] = ()  # by which states were standardised (S,); empty where they are as recorded
    state_std: tuple[float, ...] = ()
    stand_in: bool = False  # whether it is a small set in place of the task's own data
    synthetic: bool = False  # whether the rows are made from a formula and a seed, as the task itself is defined
    address: str = ""  # where it was fetched from just now; empty where it lay there already
    action_rule: str = "unit"  # how actions were taken, as `load_dataset.action_bounds` says
    action_low: tuple[float, ...] = ()  # what -1 and 1 stand for in the environment (A,); empty for -1 and 1
    action_high: tuple[float, ...] = ()
    note: str | None = None  # what must stand beside scores where the task is not D4RL's; None where it is

    @property
    def caveat(self) -> str:
        """What must stand beside every score obtained with this data; empty for D4RL's own."""
        return caveat_of(self.is_d4rl, self.synthetic, self.note)

    @property
    def actions(self) -> str:
        """What is to be said of the actions; empty where they lie in [-1, 1], as the environment's do."""
        if self.action_rule == "as_is":
            return "actions as they are"
        how = {"env": "rescaled from", "unit": "taken as shares of"}[self.action_rule]
        return f"actions {how} {bounds_text(self.action_low, self.action_high)}" if self.action_low else ""
