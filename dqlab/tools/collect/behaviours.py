"""Behaviours: whose episodes a set is made of. `Collection.mixture` names them as `KIND` or `KIND:ARGUMENT`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError
from dqlab.tools.collect.episodes import Amount, EpisodeRows

if TYPE_CHECKING:
    from dqlab.tools.collect.checkpoints import CheckpointRanking
Array = NDArray[np.floating[Any]]
ActionFunction = Callable[[Array], Array]
"""Observations (G, S) of all episodes that were begun together -> actions (G, A) in [-1, 1]; called once a step."""


@dataclass(frozen=True)
class CollectionContext:
    """What behaviours of one collection share: where they act, and what they may use.

    Attributes:
        task, physics: the environment's.
        folder: of the collection.
        seed: from which those of all episodes are derived.
        n_envs: episodes stepped together.
        checkpoints: PPO's, trained and ranked when they are asked for.
        log: is told of what is done.
    """

    task: Task
    physics: str
    folder: Path
    seed: int
    n_envs: int
    checkpoints: CheckpointRanking
    log: Callable[[str], None]


class Behaviour(ABC):
    """Gives episodes; made as `Behaviour(argument, context)`, which must be quick: work begins with `prepare`.

    Attributes:
        trains, records: whether it needs PPO's checkpoints, and all that PPO experienced.
    """

    trains, records = False, False

    def __init__(self, argument: str, context: CollectionContext) -> None:
        self.argument, self.context = argument, context

    def prepare(self) -> None:  # noqa: B027
        """Train, load, choose.

        Raises:
            ConfigError: there is no such policy. DataError: it cannot be had.
        """

    @abstractmethod
    def about(self) -> str:
        """What it is, in a line, for the set's metadata."""

    @abstractmethod
    def gather(self, amount: Amount, key: str) -> tuple[EpisodeRows, ...]:
        """Rows of so many episodes, under the name that they have in the mixture."""


class PolicyBehaviour(Behaviour):
    """A policy, rolled out: an episode is a function of the policy and the episode's number.

    Attributes:
        rows: how many rows `begin`'s function computes together where that matters to the last bit; episodes are
            begun in multiples of it, so that nothing depends on how many are stepped at once.
    """

    rows = 1

    @abstractmethod
    def identity(self) -> str:
        """What its actions depend on, as a text: another one means other episodes."""

    @abstractmethod
    def begin(self, seeds: Sequence[int]) -> ActionFunction:
        """Begin G episodes; row i of the actions depends on seeds[i] and on the observations in row i alone.

        Observations of episodes that have ended are repeated; their actions mean nothing.
        """

    def gather(self, amount: Amount, key: str) -> tuple[EpisodeRows, ...]:
        from dqlab.tools.collect.recording import roll_out

        return roll_out(self, self.context, amount, key)

    @cached_property
    def folder(self) -> str:
        """Name of the folder for its episodes."""
        facts = f"{self.identity()} {environment_key(self.context.task, self.context.physics)} {self.context.seed}"
        return hashlib.sha256(facts.encode()).hexdigest()[:10]


def environment_key(task: Task, physics: str) -> str:
    """What an environment's steps depend on, as a text."""
    return f"{task.env_id} {sorted(task.env_kwargs.items())} {task.episode_limit} {physics if task.body else ''}"


behaviours: Registry[Callable[[str, CollectionContext], Behaviour]] = Registry(
    "behaviour",
    "Whose episodes a collected set is made of: `name` or `name:argument` in Collection.mixture.",
    "Collection.mixture",
    chosen_as="{{'{}': 1.0}}",
    arguments=2,
)


def behaviour_of(key: str, context: CollectionContext) -> Behaviour:
    """The behaviour that a mixture names.

    Raises:
        ConfigError: no kind has that name.
    """
    kind, _, argument = key.partition(":")
    return behaviours.get(kind)(argument, context)


@behaviours.register("random", source="D4RL (Fu et al. 2020), `random` sets", cites=("fu2020d4rl",))
class UniformRandom(PolicyBehaviour):
    """Actions drawn uniformly from [-1, 1]."""

    def about(self) -> str:
        return "uniformly random actions"

    def identity(self) -> str:
        return "uniform"

    def begin(self, seeds: Sequence[int]) -> ActionFunction:
        generators, width = [np.random.default_rng(seed) for seed in seeds], self.context.task.action_dim
        return lambda observations: np.stack([generator.uniform(-1.0, 1.0, width) for generator in generators])


@behaviours.register("python", source="a function of yours")
class PythonFunction(PolicyBehaviour):
    """A function of yours, `python:MODULE:FUNCTION`: `(observation (S,), generator) -> action (A,)` in [-1, 1].

    The generator is a `numpy.random.Generator`, the only place from which it may draw.
    """

    def prepare(self) -> None:
        module, _, name = self.argument.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"'python:{self.argument}' cannot be imported ({error}). Write python:MODULE:FUNCTION; the module must "
                "be installed, or on PYTHONPATH."
            ) from error
        if not callable(function):
            raise ConfigError(f"'python:{self.argument}' is no function.")
        self._function: Callable[..., Any] = function

    def about(self) -> str:
        return f"the function {self.argument}"

    def identity(self) -> str:
        """The function's name and its module's text: a changed one means other episodes."""
        try:
            text = inspect.getsource(inspect.getmodule(self._function) or self._function)
        except (OSError, TypeError):
            text = ""
        return f"python {self.argument} {hashlib.sha256(text.encode()).hexdigest()}"

    def begin(self, seeds: Sequence[int]) -> ActionFunction:
        generators, width = [np.random.default_rng(seed) for seed in seeds], self.context.task.action_dim

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            pairs = zip(observations, generators, strict=True)
            actions = [np.asarray(self._function(*pair), dtype=np.float64) for pair in pairs]
            if any(action.shape != (width,) for action in actions):
                raise RunError(f"'python:{self.argument}' gives an action of shape {actions[0].shape}, not ({width},).")
            return np.stack(actions)

        return act
