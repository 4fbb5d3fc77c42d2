"""A trained policy, for use: states in, actions in the environment's units out.

What is loaded has a gin configuration of its own, and nobody else's is changed: `isolated`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dqlab import errors
from dqlab.algorithms import ActorCritic
from dqlab.algorithms.base import Nets
from dqlab.config.gin_state import OtherConfiguration
from dqlab.config.identity import Replica, is_seed
from dqlab.data.transitions import bounds_text, caveat_of
from dqlab.envs.backend import make_env
from dqlab.envs.boxed import checked_env
from dqlab.envs.custom import SOURCE, action_bounds
from dqlab.envs.tasks import Task, from_unit, tasks, to_unit
from dqlab.errors import ConfigError, DqlabError, masked, message_of, one_line
from dqlab.noise import Noise, draw_noise, generator_for
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.experiment import Experiment, build_evaluator, build_pack, execution_mode
from dqlab.runs.policy_module import compiled_policy
from dqlab.tracking import RunFolder
from dqlab.training import Evaluator
from dqlab.training.evaluation import initial_seeds
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.model_selection import EvaluationEpisodes

_ONE_AT_A_TIME = threading.RLock()
_entered: list[OtherConfiguration] = []


@contextmanager
def isolated(configuration: OtherConfiguration) -> Iterator[bool]:
    """Within this, gin has that configuration; at its end everything that a process has once is as it was.

    That is gin's configuration, the tasks that it made, and PyTorch's threads, precision of products, and device. One
    thread at a time is let in; who is within already goes on, and is told False. Errors come out with the line that a
    command would print.
    """
    with _ONE_AT_A_TIME:
        if _entered[-1:] == [configuration]:
            yield False
            return
        uses_cuda: Any = torch.cuda.is_initialized
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        device, own = torch.cuda.current_device() if uses_cuda() else 0, set(tasks.entries)
        _entered.append(configuration)
        with configuration:
            try:
                yield True
            except DqlabError as error:  # without passwords, and without the calls that gin names in a class of its own
                message = masked(message_of(error))
                if message == str(error):
                    raise
                kind = next(kind for kind in type(error).__mro__ if kind is getattr(errors, kind.__name__, 0))
                raise kind(message).with_traceback(error.__traceback__) from error.__cause__
            finally:
                _entered.pop()
                for name in set(tasks.entries) - own:
                    if tasks.entries[name].source == SOURCE:
                        tasks.remove(name)
                torch.set_num_threads(threads)
                torch.set_float32_matmul_precision(precision)
                if uses_cuda():
                    torch.cuda.set_device(device)


class PolicySource(NamedTuple):
    """Where a policy is from: in words, after so many updates, run.json (empty: the official code's), weights' file."""

    name: str
    step: int
    facts: Mapping[str, Any]
    file: Path

    @property
    def folder(self) -> RunFolder:
        """Its run's: of RUN/replica/checkpoints/step-N.safetensors."""
        return RunFolder(self.file.absolute().parents[2])


def _resolve_parts(part: Any) -> None:
    """Have an algorithm make its parts, and these theirs, by the configuration of now, not of when they are used."""
    for name in dir(type(part)):
        if name.startswith("resolved_"):
            _resolve_parts(getattr(part, name))


States = TypeVar("States", NDArray[Any], Tensor)


class LoadedPolicy:
    """A trained policy as it acts in evaluations: candidates, critics, and the selection among them.

    Calling it gives actions for one state (S,) or several (B, S), of NumPy or PyTorch, likewise. States are raw, as the
    environment gives them: they are standardised here if that is what the policy was trained on. Actions are in the
    environment's units, within its bounds; of an action chunk all h are in a row, to be played one after the other.

    Attributes:
        experiment, pack: its configuration, and its networks.
        replica: which of the run's trainings it is.
        source: where it is from.
    """

    def __init__(
        self,
        configuration: OtherConfiguration,
        experiment: Experiment,
        replica: Replica,
        weights: Mapping[str, Mapping[str, Tensor]],
        source: PolicySource,
        compiled: bool = False,
    ) -> None:
        self._configuration = configuration
        self.experiment, self.replica, self.source = experiment, replica, source
        self.pack = build_pack(experiment, [replica])
        self.pack.load(0, weights)
        _resolve_parts(self.pack.algorithm)
        data = source.facts.get("data", {})
        self.state_mean = torch.tensor(data.get("state_mean", ()), dtype=torch.float64)
        self.state_std = torch.tensor(data.get("state_std", ()), dtype=torch.float64)
        chunk = experiment.action_chunk
        self.action_low, self.action_high = (np.tile(bound, chunk) for bound in action_bounds(self.task))
        self.seed(replica.seed)
        self._compiled = compiled_policy(self) if compiled else None

    @property
    def task(self) -> Task:
        return self.experiment.resolved_task

    @property
    def device(self) -> torch.device:
        return self.pack.device

    def __repr__(self) -> str:
        about = f"{self.experiment.algorithm} policy for {self.task.name}"
        return f"<{about}: {self.source.name}, {self.replica.title}, on {self.device}>"

    def seed(self, seed: int) -> LoadedPolicy:
        """Begin a seed's sequence of actions, the same on every device. Returns itself. Raises ConfigError: no seed."""
        if not is_seed(seed):
            raise ConfigError(f"A policy's seed is an integer >= 0 (and below 2**32), not {seed!r}.")
        self._generator = generator_for(seed, "policy", 0)
        return self

    def __call__(self, states: States, noise: Mapping[str, Tensor] | None = None) -> States:
        """Actions (A,) or (B, A) for states (S,) or (B, S).

        Args:
            states: as the environment gives them.
            noise: as `draw` gives it; the policy's own sequence by default.

        Raises:
            ConfigError: the states have another shape, or are not finite.
        """
        given = self._checked(states)
        actions = self.act(given.reshape(-1, self.task.state_dim), noise)
        return _like(states, actions.reshape(*given.shape[:-1], self.pack.dims.action))

    def act(self, states: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Actions (B, A) in the environment's units for states (B, S), on the CPU."""
        if not len(states):
            return states.new_zeros(0, self.pack.dims.action).cpu()
        drawn = self.draw(len(states)) if noise is None else noise
        own = {name: value.to(self.device) for name, value in drawn.items()}
        with self.ready():
            if self._compiled:
                return self._compiled(states.to(self.device, self.pack.dtype), own).cpu()
            own = {name: value.unsqueeze(0) for name, value in own.items()}
            unit = self.pack.act(self.standardise(states).unsqueeze(0), own)[0]
        actions = from_unit(unit.cpu().double().numpy(), self.action_low, self.action_high)
        return torch.from_numpy(np.clip(actions, self.action_low, self.action_high)).to(unit.dtype)

    def standardise(self, states: Tensor) -> Tensor:
        """States (B, S) as its networks see them, on its device."""
        seen = states.double().cpu()
        if len(self.state_mean):
            seen = (seen - self.state_mean) / self.state_std
        return seen.to(self.device, self.pack.dtype)

    def draw(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The noise of acting in that many states, on the CPU: the next of the policy's sequence, or of another."""
        with self.ready():
            specs = self.pack.algorithm.act_noise(self.pack.dims, count)
        return draw_noise(specs, generator or self._generator, self.pack.dtype)

    def q(self, states: States, actions: ArrayLike | Tensor) -> States:
        """Values () or (B,) by which it ranks candidates: of actions (A,) or (B, A) in the environment's units.

        Raises ConfigError: the shapes are others; or the algorithm has no critics.
        """
        given, taken = self._checked(states), self._checked(actions, self.pack.dims.action, "actions")
        if given.shape[:-1] != taken.shape[:-1]:
            raise ConfigError(f"There are states of shape {tuple(given.shape)} and actions of {tuple(taken.shape)}.")
        if not given.numel():
            return _like(states, given.new_zeros(0))
        algorithm, rows = self.pack.algorithm, {**self.pack.state.parameters, **self.pack.state.targets}
        if not isinstance(algorithm, ActorCritic):
            raise ConfigError(f"The algorithm '{self.experiment.algorithm}' has no critics: there is no Q to ask for.")
        unit = to_unit(taken.double().cpu().numpy(), self.action_low, self.action_high)
        with self.ready(), torch.no_grad():
            seen = self.standardise(given.reshape(-1, self.task.state_dim))
            action = torch.from_numpy(unit).reshape(len(seen), -1).to(seen)
            values: Tensor = self.pack.map(algorithm.ranking, rows, seen.unsqueeze(0), action.unsqueeze(0))
        return _like(states, values.cpu().reshape(given.shape[:-1]))

    def denoising_chain(self, states: States) -> States:
        """How noise becomes an action, (M, B, A) in [-1, 1]: what the denoiser is asked about, and the action last.

        One action for each state (B, S), unranked, from the next noise of the policy's sequence.
        Raises ConfigError: it is no diffusion policy; or the states have another shape.
        """
        given = self._checked(states)
        policy = getattr(self.pack.algorithm, "resolved_policy", None)
        if not isinstance(policy, DiffusionPolicy):
            raise ConfigError(f"The algorithm '{self.experiment.algorithm}' has no diffusion policy, and no chain.")

        def chain(nets: Nets, state: Tensor, noise: Noise) -> Tensor:
            visited: list[Tensor] = []
            action = policy.sample(nets["actor"], self.pack.dims, state, noise, visited)
            return torch.stack([*visited, action])

        with self.ready(), torch.no_grad():
            seen = self.standardise(given.reshape(-1, self.task.state_dim))
            noise = draw_noise(policy.sample_noise(self.pack.dims, len(seen)), self._generator, self.pack.dtype)
            own = {name: value.to(self.device).unsqueeze(0) for name, value in noise.items()}
            points: Tensor = self.pack.map(chain, self.pack.state.parameters, seen.unsqueeze(0), own)[0]
        return _like(states, points.cpu())

    @property
    def caveat(self) -> str:
        """What must stand beside its scores: as recorded, or as episodes are judged now where that can be chosen."""
        facts = self.source.facts
        with self.ready():
            if not facts or not self.task.condition:
                return str(facts.get("caveat", ""))
            data = facts["data"]
            of_data = caveat_of(data["is_d4rl"], data.get("synthetic", False), data.get("note"))
            return "; ".join(filter(None, (of_data, self.task.caveat, self.task.condition)))

    def make_env(self, **arguments: Any) -> Any:
        """The task's environment as the run had it, with its physics and settings; actions are in [-1, 1].

        `arguments` are more of the environment's own, such as `render_mode`.
        """
        with self.ready():
            return make_env(self.task, self.experiment.physics, **arguments)

    def evaluate(self, episodes: int | None = None, env: Any = None) -> EvaluationEpisodes:
        """Episodes, as many as in training by default.

        Args:
            episodes: how many.
            env: a Gymnasium environment, or its id; the task's by default: with as many episodes as in training those
                are the recorded ones, initial states and noise included.

        Raises:
            RunError: they gave no score. EnvError: an environment raises an error, or gives what is not finite.
            ConfigError: there is no such environment, or its actions are of another width.
        """
        with self.ready(), closing(build_evaluator(self.experiment, episodes)) as evaluator:
            return self.evaluate_by(evaluator) if env is None else self._episodes_in(env, evaluator.episodes)

    def evaluate_by(self, evaluator: Evaluator, mode: ExecutionMode | None = None) -> EvaluationEpisodes:
        """The same, as an evaluator of its experiment plays them; by the run's execution mode, or another."""
        with self.ready():
            mode = mode or execution_mode(self.experiment, self.source.facts).resolve(self.device)
            evaluator.standardised_by = (self.state_mean.tolist(), self.state_std.tolist())
            return evaluator.run(self.pack, self.source.step, mode)[0]

    def _episodes_in(self, env: Any, episodes: int) -> EvaluationEpisodes:
        """Episodes in somebody's environment, one after the other; no longer than the task's."""
        made = checked_env(env, self.task.action_dim)
        low, high = made.action_space.low, made.action_space.high
        least, most = self.action_low[: len(low)], self.action_high[: len(low)]
        if (low > least + 1e-6).any() or (high < most - 1e-6).any():
            said = f"The policy's actions lie in {bounds_text(least, most)}, those of the environment in"
            advice = "Name it, or make it by gymnasium.make, whose actions are in its own units"
            raise ConfigError(f"{said} {bounds_text(low, high)}. {advice}.")
        # a sequence of its own: that of the policy goes on as it was, and the same call gives the same episodes
        noise = generator_for(self.replica.seed, f"evaluation {self.source.step}", 0)
        returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
        for episode, seed in enumerate(initial_seeds(self.replica.seed, self.source.step, episodes)):
            state, over = made.reset(seed=seed)[0], False
            chosen: list[NDArray[Any]] = []
            while not over:
                if not chosen:
                    seen = self._checked(torch.as_tensor(state)[None], what="observations")
                    chosen = np.split(self.act(seen, self.draw(1, noise))[0].numpy(), self.experiment.action_chunk)
                state, reward, terminated, truncated, _ = made.step(chosen.pop(0))
                returns[episode] += reward
                lengths[episode] += 1
                over = terminated or truncated or lengths[episode] >= self.task.episode_limit
        return EvaluationEpisodes(returns, lengths)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within this, the process computes as in training: components that are asked for have their parameters."""
        with isolated(self._configuration) as entered:
            if entered:
                torch.set_num_threads(self.experiment.resolved_threads)
                torch.set_float32_matmul_precision(self.experiment.resolved_precision.float32_products)
            yield

    def _checked(self, values: ArrayLike | Tensor, width: int = 0, what: str = "states") -> Tensor:
        """Rows as a tensor, of states where no width is given; a ConfigError where they are none, or not finite."""
        try:
            given = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, np.float64))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The {what} are no numbers: {one_line(error)}") from error
        width = width or self.task.state_dim
        if given.ndim not in (1, 2) or given.shape[-1] != width:
            wanted = f"{self.task.name} wants ({width},) or (B, {width})"
            raise ConfigError(f"The {what} have the shape {tuple(given.shape)}: {wanted}.")
        if not given.isfinite().all():
            raise ConfigError(f"The {what} hold a NaN or infinite number.")
        return given


def _like(example: States, values: Tensor) -> States:
    """Values as an array, or as a tensor on the example's device if that is one."""
    return values.to(example.device) if isinstance(example, Tensor) else values.numpy()
