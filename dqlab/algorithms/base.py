"""What an algorithm is to the training loop: networks, losses in the order of the update, targets, acting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor, nn

from dqlab.config.fields import check_field, check_fields, plain_type
from dqlab.config.registry import Registry
from dqlab.data import Batch
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec
from dqlab.policies.base import Dims

__all__ = ["Algorithm", "Batch", "Dims", "Hyper", "Loss", "LossFn", "Nets", "Noise", "NoiseSpec", "Target"]
__all__ += ["TrainedNetwork", "algorithms"]  # what the algorithms' files speak of, the types of a loss among it

Nets = dict[str, Network]
Hyper = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]
"""A scalar to descend, and scalars to report, whose names start with the network's; these get no gradient."""
LossFn = Callable[[Nets, Batch, Noise, Hyper], Loss]


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network: its loss, and the names of the hyper-parameters that its optimiser uses.

    Attributes:
        loss: `(nets, batch, noise, hyper) -> (loss, info)`, pure; info's keys start with the network's name.
        learning_rate, grad_norm: names of Adam's learning rate, of the global gradient norm's bound (0: none) or None.
        every: it is trained at every so many steps only, at the last of them (TD3's delayed actor).
        coasts: at the steps between, its optimiser steps all the same, with a gradient of 0: Adam's momentum moves it.
        first, last: its phase: it is trained, and its targets move, at first <= step < last only (None: up to the end).
        starts_as: a network, or target, of the same layout, whose copies it and its targets are until its phase begins.
        decays: whether the run's learning-rate schedule applies to it, over its phase.
        weight_decay: name of the decoupled one (AdamW: Loshchilov & Hutter 2019), a rate per learning rate, or None.
        clips_members: an ensemble's members, where they are alike, are clipped by their own norms, not by all of them.
        with_previous: its loss sees the networks as that of the one before it does: both take their steps together.
        decays_from: the schedule runs over its phase from this step on; before, the learning rate is constant.
        plain_descent: its steps are the learning rate times the gradient, not Adam's.
    """

    loss: LossFn
    learning_rate: str
    grad_norm: str | None = None
    every: int = 1
    coasts: bool = False
    decays: bool = True
    weight_decay: str | None = None
    clips_members: bool = False
    first: int = 0
    last: int | None = None
    starts_as: str | None = None
    with_previous: bool = False
    decays_from: int = 0
    plain_descent: bool = False

    def in_phase(self, step: int) -> bool:
        """Whether this step (from 0) lies in its phase."""
        return step >= self.first and (self.last is None or step < self.last)

    def updates_at(self, step: int) -> bool:
        """Whether it is trained at this step (from 0)."""
        return self.in_phase(step) and (step + 1) % self.every == 0

    def updates_in(self, steps: range) -> int:
        """At how many of these steps, all of its phase, it is trained."""
        return steps.stop // self.every - steps.start // self.every

    def update_count(self, step: int) -> int:
        """How many steps its optimiser has made once this step, of its phase, is done."""
        every = 1 if self.coasts else self.every
        return (step + 1) // every - self.first // every


@dataclass(frozen=True)
class Target:
    """A moving average of a trained network: target += rate * (source - target).

    Attributes:
        source: name of the trained network.
        rate: name of the hyper-parameter that is the rate.
        every, start, offset: steps (from 0) at which it moves: step >= start and step % every == offset.
        lags: it follows the source as it was before this update.
    """

    source: str
    rate: str
    every: int = 1
    start: int = 0
    offset: int = 0
    lags: bool = False

    def updates_at(self, step: int) -> bool:
        """Whether the target moves at the end of this step."""
        return step >= self.start and step % self.every == self.offset


class Algorithm(ABC):
    """One algorithm, written for a single replica. Subclasses are frozen dataclasses; `dims` come with each call.

    Losses draw no random numbers and read nothing but their arguments: `nets` are the trained networks and the
    targets by name, `hyper` this replica's scalars: every field of the dataclass that is a float. What is read from
    `self`, for building or acting say, is the same in all replicas of a pack; a float among it must be `structural`.
    """

    selection_loss = "actor/bc_loss"  # the metric that offline model selection ranks by
    structural: ClassVar[tuple[str, ...]] = ()  # float fields that `self`, not `hyper`, is asked for: equal in a pack
    lr_schedule: str = "constant"
    reads_next_action: ClassVar[bool] = False  # whether batches have what the data did in the next state
    joint_update: bool = False  # all losses see the networks as before the update, not those trained before them
    joint_grad_norm: bool = False  # `grad_norm` bounds the norm of all networks' gradients together, as if one's

    def __post_init__(self) -> None:
        check_fields(self)
        fits = self.joint_update or not self.joint_grad_norm
        check_field(fits, self, "joint_grad_norm", "False where joint_update is")

    @abstractmethod
    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """Freshly initialised trained networks, by name."""

    @abstractmethod
    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """What is trained, in the order in which one update trains it."""

    def targets(self) -> dict[str, Target]:
        """Targets by name, moved at the end of an update: none."""
        return {}

    @abstractmethod
    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The randomness of one update on a batch of that size, batch indices apart."""

    @abstractmethod
    def act(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) for states (B, S), as in evaluation."""

    @abstractmethod
    def act_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The randomness of acting in `batch` states."""

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) that the learned policy draws by itself for states (B, S), unranked: by default it acts."""
        return self.act(dims, nets, state, noise)

    def sample_action_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """The randomness that `sample_action` needs for that many states."""
        return self.act_noise(dims, rows)

    def hyper(self) -> dict[str, float]:
        """The scalars that may differ between replicas of one pack."""
        floats = [field.name for field in fields(self) if plain_type(field) == "float"]  # type: ignore[arg-type]
        return {name: float(getattr(self, name)) for name in floats if name not in self.structural}


algorithms: Registry[Callable[[], Algorithm]] = Registry(
    "algorithm", "What is learned: losses, targets, and what the agent acts with.", "Experiment.algorithm"
)
