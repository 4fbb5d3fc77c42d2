"""Behaviours: whose episodes a set is made of. `Collection.mixture` names them as `KIND` or `KIND:ARGUMENT`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.fields import check_counts
from dqlab.config.registry import Registry
from dqlab.envs import make_env
from dqlab.envs.tasks import Task, to_unit
from dqlab.errors import ConfigError, RunError, pip_install
from dqlab.files import expanded, sha256_of
from dqlab.tools.collect.episodes import Amount, EpisodeRows
from dqlab.tracking import RunFolder

if TYPE_CHECKING:
    from dqlab.tools.collect.ppo import CollectionContext
Array = NDArray[np.floating[Any]]
ActionFunction = Callable[[Array], Array]
"""Observations (rows, S) of episodes that were begun together -> actions (rows, A) in [-1, 1]; called once a step."""


class Behaviour(ABC):
    """Gives episodes; made as `Behaviour(argument, context)`, which must be quick: work begins with `prepare`.

    Attributes:
        trains, records: whether it needs PPO's checkpoints, and all that PPO experienced.
    """

    trains, records = False, False

    def __init__(self, argument: str, context: CollectionContext) -> None:
        self.argument, self.context = argument, context

    def prepare(self) -> None:  # noqa: B027
        """Train, load, choose. A ConfigError where there is no such policy, a DataError where it cannot be had."""

    @abstractmethod
    def about(self) -> str:
        """What it is, in a line, for the set's metadata."""

    @abstractmethod
    def gather(self, amount: Amount, key: str) -> EpisodeRows:
        """Rows of so many episodes, under the name that they have in the mixture."""


class PolicyBehaviour(Behaviour):
    """A policy, rolled out, `rows` episodes at a time: each is a function of the policy and of its number."""

    rows = 1

    @abstractmethod
    def identity(self) -> str:
        """What its actions depend on, as a text: another one means other episodes."""

    def make_env(self) -> Any:
        """An environment that it acts in."""
        return make_env(self.context.task, self.context.physics)

    @abstractmethod
    def begin(self, seed: int) -> ActionFunction:
        """Begin `rows` episodes, whose noise is a function of the seed; an ended one's actions mean nothing."""

    def gather(self, amount: Amount, key: str) -> EpisodeRows:
        from dqlab.tools.collect.recording import roll_out

        return EpisodeRows.take(roll_out(self, amount, key), amount)

    def _check_shapes(self, what: str, *shapes: Any) -> None:
        """A ConfigError unless a policy's shapes of observations and of actions are those of the task."""
        task = self.context.task
        wanted = (task.state_dim,), (task.action_dim,)
        if shapes != wanted:
            given, needed = ("observations {} and actions {}".format(*each) for each in (shapes, wanted))
            raise ConfigError(f"{what} is a policy for {given}; {task.robot} has {needed}.")

    @cached_property
    def folder(self) -> str:
        """Name of the folder for its episodes."""
        facts = f"{self.identity()} {env_key(self.context.task, self.context.physics)} {self.context.seed}"
        return hashlib.sha256(facts.encode()).hexdigest()[:10]


def env_key(task: Task, physics: str) -> str:
    """What an environment's steps depend on, as a text."""
    return f"{task.env_id} {sorted(task.env_kwargs.items())} {task.episode_limit} {physics if task.body else ''}"


behaviours: Registry[Callable[[str, CollectionContext], Behaviour]] = Registry(
    "behaviour",
    "Whose episodes a collected set is made of: `name` or `name:argument` in Collection.mixture.",
    "Collection.mixture",
    chosen_as="{{'{}': 1.0}}",
    arguments=2,
)


@behaviours.register("random", source="D4RL (Fu et al. 2020), `random` sets", cites=("fu2020d4rl",))
class UniformRandom(PolicyBehaviour):
    """Actions drawn uniformly from [-1, 1]."""

    def about(self) -> str:
        return "uniformly random actions"

    def identity(self) -> str:
        return "uniform"

    def begin(self, seed: int) -> ActionFunction:
        generator, width = np.random.default_rng(seed), self.context.task.action_dim
        return lambda observations: generator.uniform(-1.0, 1.0, (1, width))


@behaviours.register("python", source="a function of yours")
class PythonFunction(PolicyBehaviour):
    """A function of yours, `python:MODULE:FUNCTION`: `(observation (S,), generator) -> action (A,)` in [-1, 1].

    The generator is a `numpy.random.Generator`, the only place from which it may draw.
    """

    def prepare(self) -> None:
        module, _, name = self.argument.partition(":")
        try:
            self._function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except (ImportError, ValueError, AttributeError) as error:
            advice = "Write python:MODULE:FUNCTION; the module must be installed, or on PYTHONPATH."
            raise ConfigError(f"'python:{self.argument}' cannot be imported ({error}). {advice}") from error
        if not callable(self._function):
            raise ConfigError(f"'python:{self.argument}' is no function.")

    def about(self) -> str:
        return f"the function {self.argument}"

    def identity(self) -> str:
        try:
            text = inspect.getsource(inspect.getmodule(self._function) or self._function)
        except (OSError, TypeError):
            text = ""
        return f"python {self.argument} {hashlib.sha256(text.encode()).hexdigest()}"

    def begin(self, seed: int) -> ActionFunction:
        generator, width = np.random.default_rng(seed), self.context.task.action_dim

        def act(observations: Array) -> Array:
            action = np.asarray(self._function(observations[0], generator), np.float64)
            if action.shape != (width,):
                raise RunError(f"'python:{self.argument}' gives an action of shape {action.shape}, not ({width},).")
            return action[None]

        return act


@behaviours.register("run", source="dqlab, `dqlab train`")
class DqlabRun(PolicyBehaviour):
    """A run of dqlab's, `run:PATH`, acting as in its evaluations, with noise of its own.

    Args:
        argument: the run's folder.
        context: where it acts.
        checkpoint: `last`, `best`, `offline`, or a .safetensors file.
        seed: which replica; the first one by default (-1).
    """

    rows = 10

    def __init__(self, argument: str, context: CollectionContext, checkpoint: str = "last", seed: int = -1) -> None:
        super().__init__(argument, context)
        check_counts("DqlabRun", -1, seed=seed)
        self._folder, self._which, self._seed = RunFolder(expanded(argument)), checkpoint, seed

    def prepare(self) -> None:
        from dqlab.runs.load_policy import load_policy
        from dqlab.training.execution.modes import Eager
        from dqlab.training.programs import SamplerCore

        folder = self._folder
        first = folder.replica(folder.replicas()[0].name)
        place, seed = (folder.path, self._seed) if self._seed >= 0 else (first, None)
        policy = load_policy(place, self._which, seed=seed)
        ours = policy.task
        self._check_shapes(f"{folder.path} (a run of {ours.name})", (ours.state_dim,), (ours.action_dim,))
        with policy.ready():
            self._core = SamplerCore(policy.pack, self.rows, Eager())
        self._policy = policy

    def about(self) -> str:
        name, file = self._folder.path.name, self._policy.source.file
        return f"dqlab run {name} on {self._policy.task.name}, {file.stem}, acting as in evaluation"

    def identity(self) -> str:
        return f"run {sha256_of(self._policy.source.file)} {sha256_of(self._folder.config)} {self.rows}"

    def begin(self, seed: int) -> ActionFunction:
        import torch

        with self._policy.ready():
            stream = self._core.noise_stream(f"collection {seed}")
        time, chunk, left = count(), self._policy.experiment.action_chunk, list[Array]()

        def act(observations: Array) -> Array:
            if not left:
                with self._policy.ready():
                    seen = self._policy.standardise(torch.from_numpy(observations))
                    actions = self._core.sample_actions(seen[None], stream.at(next(time)))
                left.extend(np.split(np.array(actions[0].double().cpu().numpy()), chunk, axis=1))
            return left.pop(0)

        return act


class SavedPolicy(PolicyBehaviour):
    """A policy in a file of stable-baselines3's. Actions are mapped from its own bounds to [-1, 1].

    Attributes:
        path: the file, once it is read.
        deterministic: whether it acts by its mean.
    """

    rows = 10
    deterministic = False

    def read(self, path: Path, statistics: Path | None) -> None:
        """Read a policy, of any algorithm, and VecNormalize's statistics, by which it is shown observations."""
        if not path.is_file():
            raise ConfigError(f"There is no file '{path}' (sb3:PATH.zip in Collection.mixture).")
        import_sb3()
        from stable_baselines3.common.save_util import load_from_zip_file

        self.path, self._statistics, self._normalise = path, statistics, np.asarray
        try:
            data, weights, _ = load_from_zip_file(path, device="cpu")
            assert data is not None
            given = dict(data["policy_kwargs"]) | ({"use_sde": True} if data.get("use_sde") else {})
            spaces = data["observation_space"], data["action_space"]
            self._policy = data["policy_class"](*spaces, lambda _: 0.0, **given)
            self._policy.load_state_dict(weights["policy"])
        except ImportError as error:
            said = f"{path} needs a module that cannot be imported here ({error})"
            raise ConfigError(f"{said}: install it, or put it on PYTHONPATH.") from error
        except Exception as error:  # unpickling may fail in any way
            raise ConfigError(f"{path} is no policy of stable-baselines3, or is damaged ({error!r:.200}).") from error
        self._policy.set_training_mode(False)
        if statistics:
            try:
                self._normalise = pickle.loads(statistics.read_bytes()).normalize_obs
            except Exception as error:  # unpickling may fail in any way
                said = f"{statistics} holds no statistics of VecNormalize, or is damaged"
                raise ConfigError(f"{said} ({error!r:.200}).") from error
        spaces = self._policy.observation_space, self._policy.action_space
        what = f"{path}, from {spaces[0]} to {spaces[1]},"
        self._check_shapes(what, *(getattr(space, "shape", None) for space in spaces))

    def about(self) -> str:
        how = "deterministic" if self.deterministic else "stochastic"
        return f"stable-baselines3's {type(self._policy).__name__} in {self.path.name}, {how}"

    def identity(self) -> str:
        return f"sb3 {[sha256_of(file) for file in (self.path, self._statistics) if file]} {self.deterministic}"

    def begin(self, seed: int) -> ActionFunction:
        import torch

        generator = np.random.default_rng(seed)

        def act(observations: Array) -> Array:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(generator.integers(2**62)))
                actions, _ = self._policy.predict(self._normalise(observations), deterministic=self.deterministic)
            return to_unit(np.asarray(actions), self._policy.action_space.low, self._policy.action_space.high)

        return act


@behaviours.register("sb3", source="stable-baselines3 (Raffin et al. 2021)", cites=("raffin2021stable",))
class SB3Policy(SavedPolicy):
    """A policy that stable-baselines3 saved, `sb3:PATH.zip`, of any of its algorithms with continuous actions.

    Observations are normalised by VecNormalize's `vecnormalize.pkl` beside it, where there is one. Such files run code
    when they are read: open only what you trust.

    Args:
        argument: the file.
        context: where it acts.
        deterministic: whether it acts by its mean.
    """

    def __init__(self, argument: str, context: CollectionContext, deterministic: bool = False) -> None:
        super().__init__(argument, context)
        self.deterministic = deterministic

    def prepare(self) -> None:
        path = expanded(self.argument)
        statistics = path.parent / "vecnormalize.pkl"
        self.read(path, statistics if statistics.exists() else None)


def import_sb3() -> Any:
    """stable-baselines3; a ConfigError where it is not installed."""
    try:
        import stable_baselines3
    except ImportError as error:
        raise ConfigError(f"Collecting needs stable-baselines3: {pip_install('collect')}") from error
    return stable_baselines3
