"""A trained policy, for use: states in, actions in the environment's units out.

What is loaded has a gin configuration of its own, and nobody else's is changed: `isolated`.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dqlab import errors
from dqlab.algorithms import ActorCritic
from dqlab.algorithms.base import Nets
from dqlab.config.gin_state import OtherConfiguration
from dqlab.config.replica import Replica
from dqlab.envs.custom import SOURCE, action_bounds
from dqlab.envs.tasks import Task, from_unit, tasks, to_unit
from dqlab.errors import ConfigError, DqlabError, RunError, masked, message_of, nearest_of_few, one_line, printable_name
from dqlab.files import expanded
from dqlab.noise import NoiseSpec, draw_noise, generator_for
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.build import execution_mode
from dqlab.runs.evaluate import (
    build_ready_evaluator,
    checkpoint_files,
    load_experiment,
    load_official,
    load_replica,
    standardisation,
)
from dqlab.runs.experiment import Experiment
from dqlab.runs.policy_module import CompiledPolicy
from dqlab.tracking import RunFolder
from dqlab.tracking.records import read_record
from dqlab.training import Pack
from dqlab.training.evaluation import initial_seeds
from dqlab.training.model_selection import EvaluationEpisodes

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def isolated(configuration: OtherConfiguration) -> Iterator[None]:
    """Within this, gin has that configuration; at its end everything that a process has once is as it was.

    That is gin's configuration, the tasks that it made, and PyTorch's threads, precision of products, and device. One
    thread at a time is let in. Errors come out with the one line that a command would print.
    """
    with _ONE_AT_A_TIME:
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        device = torch.cuda.current_device() if _uses_cuda() else 0
        own = _configured_tasks()
        with configuration:
            try:
                yield
            except DqlabError as error:
                raise _plain(error) from error.__cause__
            finally:
                for name in _configured_tasks() - own:
                    tasks.remove(name)
                torch.set_num_threads(threads)
                torch.set_float32_matmul_precision(precision)
                if _uses_cuda():
                    torch.cuda.set_device(device)


def _plain(error: DqlabError) -> DqlabError:
    """One like it without a password, and without the calls that gin names in a class of its own; or it itself."""
    message = masked(message_of(error))
    if message == str(error):
        return error
    kinds: list[type[DqlabError]] = [kind for kind in type(error).__mro__ if kind is getattr(errors, kind.__name__, 0)]
    return kinds[0](message).with_traceback(error.__traceback__)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _configured_tasks() -> set[str]:
    return {entry.name for entry in tasks if entry.source == SOURCE}


class PolicySource(NamedTuple):
    """Where a policy is from.

    Attributes:
        name: the checkpoint's, for messages and records.
        step: updates that made it.
        facts: run.json of its run; empty for one of the official code's.
        file: its weights.
    """

    name: str
    step: int
    facts: Mapping[str, Any]
    file: Path


EXPORTED = "policy.json"


class ExportRecord(TypedDict):
    """policy.json, which makes a folder an exported policy: of its weights the file, and what its models take.

    Attributes:
        noise: name -> shape, with B for the number of states.
    """

    weights: Annotated[str, Field(pattern=r"^\w[\w.=+-]*/checkpoints/step-\d+\.safetensors$")]
    task: str
    noise: dict[str, list[int | str]]


States = TypeVar("States", NDArray[Any], Tensor)


class LoadedPolicy:
    """A trained policy as it acts in evaluations: candidates, critics, and the selection among them.

    Calling it gives actions for one state (S,) or several (B, S), of NumPy or PyTorch, likewise. States are raw, as the
    environment gives them: they are standardised here if that is what the policy was trained on. Actions are in the
    environment's units, within its bounds.

    Attributes:
        experiment, pack: its configuration, and its networks.
        replica: which of the run's trainings it is.
        source: where it is from.
    """

    def __init__(
        self,
        configuration: OtherConfiguration,
        experiment: Experiment,
        pack: Pack,
        source: PolicySource,
        replica: Replica,
        standardised_by: tuple[Sequence[float], Sequence[float]] = ((), ()),
        compiled: bool = False,
    ) -> None:
        self._configuration, self._standardised_by, self._within = configuration, standardised_by, False
        self.experiment, self.pack, self.source, self.replica = experiment, pack, source, replica
        self.state_mean, self.state_std = (torch.tensor(list(each), dtype=torch.float64) for each in standardised_by)
        self.action_low, self.action_high = (np.asarray(each) for each in action_bounds(self.task))
        self._specs: dict[int, dict[str, NoiseSpec]] = {}
        self._compiles = compiled
        self.seed(replica.seed)

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return self.experiment.resolved_task

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.pack.device

    def __repr__(self) -> str:
        return f"<{self.experiment.algorithm} policy for {self.task.name}: {self.source.name}, on {self.device}>"

    def seed(self, seed: int) -> LoadedPolicy:
        """Begin the sequence of actions that belongs to a seed; the same one on every device. Returns itself."""
        self._generator = generator_for(seed, "policy", 0)
        return self

    def __call__(self, states: States, noise: Mapping[str, Tensor] | None = None) -> States:
        """Actions (A,) or (B, A) for states (S,) or (B, S).

        Args:
            states: as the environment gives them.
            noise: as `draw` gives it; the policy's own sequence by default.

        Raises:
            ConfigError: the states have another shape.
        """
        given = _as_tensor(states)
        self._check(given, self.task.state_dim, "states")
        actions = self.act(given.reshape(-1, self.task.state_dim), noise)
        return _like(states, actions.reshape(*given.shape[:-1], -1))

    def act(self, states: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Actions (B, A) in the environment's units for states (B, S), on the CPU."""
        drawn = self.draw(len(states)) if noise is None else noise
        own = {name: value.to(self.device) for name, value in drawn.items()}
        if self._compiles:
            with _threads(self.experiment.resolved_threads):
                return self._compiled(states.to(self.device, self.pack.dtype), own).cpu()
        own = {name: value.unsqueeze(0) for name, value in own.items()}
        with self.ready():
            unit = self.pack.act(self.standardise(states).unsqueeze(0), own)[0]
        actions = from_unit(unit.cpu().double().numpy(), self.action_low, self.action_high)
        return torch.from_numpy(np.clip(actions, self.action_low, self.action_high)).to(unit.dtype)

    @cached_property
    def _compiled(self) -> CompiledPolicy:
        return CompiledPolicy(self)

    def standardise(self, states: Tensor) -> Tensor:
        """States (B, S) as its networks see them, on its device."""
        seen = states.double().cpu()
        if len(self.state_mean):
            seen = (seen - self.state_mean) / self.state_std
        return seen.to(self.device, self.pack.dtype)

    def draw(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The noise of acting in that many states, on the CPU: the next of the policy's sequence, or of another."""
        if count not in self._specs:
            with self.ready():
                self._specs[count] = self.pack.algorithm.act_noise(self.pack.dims, count)
        return draw_noise(self._specs[count], generator or self._generator, self.pack.dtype)

    def q(self, states: States, actions: ArrayLike | Tensor) -> States:
        """Values () or (B,) by which it ranks candidates: of actions (A,) or (B, A) in the environment's units.

        Raises:
            ConfigError: the shapes are others; or the algorithm has no critics.
        """
        given, taken = _as_tensor(states), _as_tensor(actions)
        self._check(given, self.task.state_dim, "states")
        self._check(taken, self.task.action_dim, "actions")
        if given.shape[:-1] != taken.shape[:-1]:
            raise ConfigError(f"There are states of shape {tuple(given.shape)} and actions of {tuple(taken.shape)}.")
        algorithm = self.pack.algorithm
        if not isinstance(algorithm, ActorCritic):
            raise ConfigError(f"The algorithm '{self.experiment.algorithm}' has no critics: there is no Q to ask for.")
        unit = to_unit(taken.double().cpu().numpy(), self.action_low, self.action_high)
        with self.ready(), torch.no_grad():
            seen = self.standardise(given.reshape(-1, self.task.state_dim))
            action = torch.from_numpy(unit).reshape(len(seen), -1).to(seen)
            state = self.pack.state
            rows = {**state.parameters, **state.targets}
            values: Tensor = self.pack.map(algorithm.ranking, rows, seen.unsqueeze(0), action.unsqueeze(0))
        return _like(states, values.cpu().reshape(given.shape[:-1]))

    def denoising_chain(self, states: States) -> States:
        """How noise becomes an action, (M, B, A) in [-1, 1]: what the denoiser is asked about, and the action last.

        One action for each state (B, S), unranked, from the next noise of the policy's sequence.

        Raises:
            ConfigError: it is no diffusion policy; or the states have another shape.
        """
        given = _as_tensor(states)
        self._check(given, self.task.state_dim, "states")
        policy = getattr(self.pack.algorithm, "resolved_policy", None)
        if not isinstance(policy, DiffusionPolicy):
            raise ConfigError(
                f"The algorithm '{self.experiment.algorithm}' has no diffusion policy: there is no chain."
            )

        def chain(nets: Nets, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
            visited: list[Tensor] = []
            action = policy.sample(nets["actor"], self.pack.dims, state, noise, visited)
            return torch.stack([*visited, action])

        with self.ready(), torch.no_grad():
            seen = self.standardise(given.reshape(-1, self.task.state_dim))
            noise = draw_noise(policy.sample_noise(self.pack.dims, len(seen)), self._generator, self.pack.dtype)
            own = {name: value.to(self.device).unsqueeze(0) for name, value in noise.items()}
            points: Tensor = self.pack.map(chain, self.pack.state.parameters, seen.unsqueeze(0), own)[0]
        return _like(states, points.cpu())

    def evaluate(self, episodes: int | None = None, env: Any = None) -> EvaluationEpisodes:
        """Episodes, as many as in training by default.

        Args:
            episodes: how many.
            env: a Gymnasium environment, or its id; the task's by default: with as many episodes as in training those
                are the recorded ones, initial states and noise included.

        Raises:
            RunError: they gave no score. EnvError: the task's environment raises an error.
        """
        with self.ready():
            evaluator = build_ready_evaluator(self.experiment, episodes)
            if env is not None:
                return self._episodes_in(env, evaluator.episodes)
            evaluator.standardised_by = self._standardised_by
            mode = execution_mode(self.experiment, self.source.facts).resolve(self.device)
            try:
                return evaluator.run(self.pack, self.source.step, mode)[0]
            finally:
                evaluator.environments.close()

    def _episodes_in(self, env: Any, episodes: int) -> EvaluationEpisodes:
        """Episodes in somebody's environment, one after the other; no longer than the task's."""
        import gymnasium

        made = gymnasium.make(env) if isinstance(env, str) else env
        # a sequence of its own: that of the policy goes on as it was, and the same call gives the same episodes
        noise = generator_for(self.replica.seed, f"evaluation {self.source.step}", 0)
        returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
        for episode, seed in enumerate(initial_seeds(self.replica.seed, self.source.step, episodes)):
            state, over = made.reset(seed=seed)[0], False
            while not over and lengths[episode] < self.task.episode_limit:
                seen = torch.as_tensor(gymnasium.spaces.flatten(made.observation_space, state)).reshape(1, -1)
                self._check(seen, self.task.state_dim, "observations")
                action = self.act(seen, self.draw(1, noise))[0].numpy().astype(made.action_space.dtype)
                state, reward, terminated, truncated, _ = made.step(action)
                returns[episode] += reward
                lengths[episode] += 1
                over = terminated or truncated
        return EvaluationEpisodes(returns, lengths)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within this, the process computes as in training: components that are asked for have their parameters."""
        with _ONE_AT_A_TIME:
            if self._within:
                yield
                return
            self._within = True
            try:
                with self._configured():
                    yield
            finally:
                self._within = False

    @contextmanager
    def _configured(self) -> Iterator[None]:
        with isolated(self._configuration):
            torch.set_num_threads(self.experiment.resolved_threads)
            torch.set_float32_matmul_precision(self.experiment.resolved_precision.float32_products)
            yield

    def _check(self, given: Tensor, width: int, what: str) -> None:
        if given.ndim not in (1, 2) or given.shape[-1] != width:
            raise ConfigError(
                f"The {what} have the shape {tuple(given.shape)}: {self.task.name} wants ({width},) or (B, {width})."
            )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within this, alone, PyTorch computes with so many threads."""
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        if before != count:
            torch.set_num_threads(count)
        try:
            yield
        finally:
            if before != count:
                torch.set_num_threads(before)


def _as_tensor(values: ArrayLike | Tensor) -> Tensor:
    return values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=np.float64))


def _like(example: States, values: Tensor) -> States:
    """Values as an array, or as a tensor on the example's device if that is one."""
    return values.to(example.device) if isinstance(example, Tensor) else values.numpy()


def as_bindings(values: Mapping[str, Any]) -> list[str]:
    """Gin names and Python values as single bindings.

    Raises:
        ConfigError: a value is none that a gin file can say.
    """
    return [f"{name}={_literal(name, value)}" for name, value in values.items()]


def _literal(name: str, value: Any) -> str:
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    text = repr(str(plain) if isinstance(plain, Path) else plain)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        kinds = "a number, a text, True or False, or a tuple, list or dictionary of those"
        raise ConfigError(f"{name} is {printable_name(text)}: a gin parameter is {kinds}.") from error
    return text


def load_policy(
    source: str | Path,
    checkpoint: str = "best",
    *,
    seed: int | None = None,
    device: str | None = None,
    task: str | None = None,
    set: Mapping[str, Any] | None = None,
    compiled: bool = False,
) -> LoadedPolicy:
    """Load a trained policy.

    Args:
        source: a run's folder, one replica's folder in it, a file of its checkpoints, what `dqlab export` has written,
            here or on the Hugging Face Hub (`hf:USER/REPO`), a policy that ships with dqlab (`pretrained:NAME`), or a
            folder of the official code's `actor_*.pth` and `critic_*.pth`.
        checkpoint: `best` (as scored in the environment: best-online), `last` or `offline`; of the official code's, the
            epoch, the latest one for `best` and `last`.
        seed: which replica, where the run has several.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; as in training by default.
        task: of the official code's policy.
        set: gin names and values, over the run's.
        compiled: act by compiled code: some ten seconds at the first call, and a fraction of the time at all others.

    Raises:
        RunError: there is no such run, replica or checkpoint. ConfigError: a choice is wrong.
    """
    path, configuration = source_folder(source), OtherConfiguration()
    bindings = as_bindings({**({"Experiment.device": device} if device else {}), **(set or {})})
    with isolated(configuration):
        if path.is_dir() and not (path / "run.json").exists() and any(path.glob("actor*.pth")):
            return _load_official(configuration, path, checkpoint, task, bindings, compiled)
        if task is not None:
            raise ConfigError("`task` belongs to the official code's checkpoints; a run knows its own.")
        folder, file = _find(path, checkpoint, seed)
        experiment, facts = load_experiment(folder, bindings)
        pack, replica, step = load_replica(experiment, folder, file)
        name = source if str(source).startswith((HUB, PRETRAINED)) else folder.path.name
        source_of = PolicySource(f"{name}, {replica.title}, step {step:,}", step, facts, file)
        by = standardisation(facts)
        return LoadedPolicy(configuration, experiment, pack, source_of, replica, by, compiled)


HUB, PRETRAINED = "hf:", "pretrained:"
"""What the names of repositories on the Hugging Face Hub, and of policies that ship with dqlab, begin with."""


def pretrained_policies() -> dict[str, Path]:
    """The policies that ship with dqlab: name -> folder, which is an exported policy's without its models."""
    folders = sorted((Path(__file__).parent / "pretrained").glob(f"*/{EXPORTED}"))
    return {folder.parent.name: folder.parent for folder in folders}


def source_folder(source: str | Path) -> Path:
    """The folder or file that a name of `load_policy` means; a repository of the Hub's is fetched where it has changed.

    Raises:
        RunError: it is not to be had.
    """
    kind, _, name = str(source).partition(":")
    if f"{kind}:" == PRETRAINED:
        known = pretrained_policies()
        if name not in known:
            raise RunError(f"No pretrained policy is called '{name}'. {nearest_of_few(name, known)}")
        return known[name]
    if f"{kind}:" != HUB:
        return expanded(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.onnx", "*.pt2", "*.py"]))
    except Exception as error:  # the Hub's client raises those of several libraries
        raise RunError(f"{source} cannot be had: {one_line(error)}") from error


def _find(path: Path, checkpoint: str, seed: int | None) -> tuple[RunFolder, Path]:
    """The run's folder, and the file of its weights; what `dqlab export` has written has one file."""
    if (path / EXPORTED).exists():
        path = path / read_record(path / EXPORTED, ExportRecord)["weights"]
    if path.is_file():  # RUN/replica/checkpoints/step-N.safetensors
        return RunFolder(path.absolute().parents[2]), path
    if not (path / "run.json").exists() and (path.absolute().parent / "run.json").exists():
        folder, name = RunFolder(path.absolute().parent), path.name
        own = [replica for replica in folder.replicas() if replica.name == name]
    else:
        folder, name = RunFolder(path), ""
        own = [replica for replica in folder.replicas() if seed in (None, replica.seed)]
    if len(own) > 1:
        raise RunError(
            f"{folder.path} has {len(own)} replicas: name a `seed`, or a replica's folder, "
            f"{', '.join(str(folder.replica(replica.name)) for replica in own[:3])}{', ...' if own[3:] else ''}."
        )
    files = checkpoint_files(folder, seed, checkpoint)
    return folder, next((file for file in files if own and own[0].name in file.parts), files[0])


def _load_official(
    configuration: OtherConfiguration,
    path: Path,
    checkpoint: str,
    task: str | None,
    bindings: Sequence[str],
    compiled: bool,
) -> LoadedPolicy:
    if task is None:
        raise ConfigError(f"{path} is of the official code's: say its `task`, such as 'walker2d-medium-expert-v2'.")
    epoch = None if checkpoint in ("best", "last") else checkpoint
    experiment, pack, trained = load_official(path, task, epoch, bindings)
    source = PolicySource(f"official checkpoint {trained.stem} ({trained.schedule})", 0, {}, path)
    return LoadedPolicy(configuration, experiment, pack, source, Replica.plain(0), compiled=compiled)
