"""Transitions as algorithms get them: batches, datasets on the training device, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dqlab.data.arrays import read_transitions
from dqlab.data.bounds import AS_IS, ActionRule, bounds_text
from dqlab.data.formats.base import Columns
from dqlab.data.rewards import RewardTransform
from dqlab.errors import DataError
from dqlab.machine import free_memory, in_words


class Batch(NamedTuple):
    """Transitions.

    Attributes:
        state (B, S), action (B, A), next_state (B, S).
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
    """A dataset of n transitions, float tensors on one device.

    Attributes:
        state, action, reward, next_state, terminal, next_action: as in `Batch`, of all n.
        provenance: where they come from.
    """

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
        """The same transitions elsewhere; the same memory where nothing changes.

        Raises:
            DataError: the device has no room for them.
        """
        self._check_room(torch.device(device), dtype)
        return self.of_fields(map_fields(lambda field: field.to(device, dtype), self.fields), self.provenance)

    @classmethod
    def of_fields(cls, fields: Batch, provenance: Provenance) -> Transitions:
        """Transitions from all of them as one batch."""
        return cls(**fields._asdict(), provenance=provenance)

    def _check_room(self, device: torch.device, dtype: torch.dtype) -> None:
        if (self.state.device.type, self.state.dtype) == (device.type, dtype) or device.type == "meta":
            return
        needed = sum(field.numel() for field in self.fields if field is not None) * dtype.itemsize
        free = free_memory(device)
        if needed > free:
            raise DataError(
                f"The dataset takes {in_words(needed)} as {dtype}, {device} has {in_words(free)} free; it must lie "
                "where networks are computed. Use a smaller dataset, or the CPU."
            )


def map_fields(function: Callable[[Tensor], Tensor], fields: Batch) -> Batch:
    """A function of every field that there is."""
    return Batch(*(None if field is None else function(field) for field in fields))  # type: ignore[arg-type]


def gather_rows(fields: Batch, index: Tensor) -> Batch:
    """The rows of a batch (n, ...) at index (K, B): fields (K, B, ...)."""
    return map_fields(lambda field: field[index], fields)


def q_learning_view(
    columns: Columns,
    episode_limit: int,
    transform: RewardTransform,
    origin: dict[str, Any],
    standardise: bool = False,
    actions: ActionRule = AS_IS,
    chunk: int = 1,
    next_action: bool = False,
) -> Transitions:
    """Transitions of a dataset.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        transform: applied to the kept rewards.
        origin: what `Provenance` says of where they are from.
        standardise: whether states are standardised.
        actions: which ones there may be, and what becomes of them.
        chunk, next_action: as in `read_transitions`.

    Raises:
        DataError: a value is NaN or infinite; no row becomes a transition.
    """
    arrays = read_transitions(columns, episode_limit, standardise, actions, chunk, next_action)
    returns = arrays.returns
    provenance = Provenance(
        **origin,
        rows=arrays.rows,
        episodes=len(returns),
        transitions=len(arrays.state),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_min=float(returns.min()),
        return_max=float(returns.max()),
        state_mean=arrays.state_mean,
        state_std=arrays.state_std,
    )
    reward = arrays.chunked(np.ascontiguousarray(transform(arrays.rewards, returns), dtype=np.float32))
    fields = (arrays.state, arrays.action, reward, arrays.next_state, arrays.terminal, arrays.next_action)
    made = Batch(*(None if field is None else torch.from_numpy(field) for field in fields))  # type: ignore[arg-type]
    return Transitions.of_fields(made, provenance)


def caveat_of(is_d4rl: bool, synthetic: bool, note: str | None = None) -> str:
    """What must stand beside every score obtained with such data; empty for D4RL's own, and another benchmark's."""
    return note if note is not None else "" if is_d4rl else "synthetic" if synthetic else "not D4RL"


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from and what is in it.

    Attributes:
        source: which data source gave it, such as `d4rl_cache`.
        path: the file; empty where there is none.
        digest: SHA-256 of the file, or of the rows.
        is_d4rl: whether it is D4RL's own file, so that its scores may stand beside published ones.
        rows, episodes, transitions: of the file, and of the Q-learning view of it.
        return_mean, return_std, return_min, return_max: of its episodes.
        skipped: why the sources that were to be asked first had nothing.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
        stand_in: whether it is a small set in place of the task's own data.
        synthetic: whether the rows are made from a formula and a seed, as the task itself is defined.
        address: where it was fetched from just now; empty where it lay there already.
        action_rule: how actions were taken, as `load_dataset.action_bounds` says.
        action_low, action_high: what -1 and 1 stand for in the environment (A,); empty for -1 and 1.
        note: what must stand beside scores where the task is not D4RL's; None where it is.
    """

    source: str
    path: str
    digest: str
    is_d4rl: bool
    rows: int
    episodes: int
    transitions: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    skipped: tuple[str, ...] = ()
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    stand_in: bool = False
    synthetic: bool = False
    address: str = ""
    action_rule: str = "unit"
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    note: str | None = None

    @property
    def caveat(self) -> str:
        """What must stand beside every score obtained with this data; empty for D4RL's own.

        Synthetic rows stand in for nothing: they are the task's own data, and are only named.
        """
        return caveat_of(self.is_d4rl, self.synthetic, self.note)

    @property
    def actions(self) -> str:
        """What is to be said of the actions; empty where they lie in [-1, 1], as the environment's do."""
        if self.action_rule == "as_is":
            return "actions as they are"
        how = {"env": "rescaled from", "unit": "taken as shares of"}[self.action_rule]
        return f"actions {how} {bounds_text(self.action_low, self.action_high)}" if self.action_low else ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
