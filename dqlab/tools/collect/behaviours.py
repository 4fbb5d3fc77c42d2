"""Behaviours: whose episodes a set is made of. `Collection.mixture` names them as `KIND` or `KIND:ARGUMENT`."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from functools import cache, cached_property, partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gin
import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.envs import make_env
from dqlab.envs.tasks import BENCHMARK, OGBENCH, Task, dataset_of, environment_of, to_unit
from dqlab.errors import ConfigError, RunError, pip_install
from dqlab.files import expanded, sha256_of
from dqlab.machine import package_version
from dqlab.tools.collect.episodes import Amount, EpisodeRows, Rows, behaviour_slug, load_episodes, save_episodes
from dqlab.tracking import RunFolder

if TYPE_CHECKING:
    from dqlab.tools.collect.ppo import CollectionContext
Array = NDArray[np.floating[Any]]
ActionFunction = Callable[[Array], Array]
"""Observations (rows, S) of episodes that were begun together -> actions (rows, A) in [-1, 1]; called once a step."""
SHARD = Amount(transitions=10_000)
"""A file of episodes is closed when it has so many: what a kill can cost."""


class Behaviour(ABC):
    """Gives episodes; made as `Behaviour(argument, context)`, which must be quick: work begins with `prepare`.

    Attributes:
        trains, records: whether it needs PPO's checkpoints, and all that PPO experienced.
        rewards: whether its rows have some; else OGBench's format makes them when it is read.
    """

    trains, records, rewards = False, False, True

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
        """Rows of so many episodes: those that are kept already, and as many more as are missing."""
        folder = self.context.folder / "episodes" / f"{behaviour_slug(key)}-{self.folder}"
        episodes = list[Rows]()
        while (path := folder / f"from-{len(episodes):08d}.npz").exists():
            episodes += load_episodes(path)
        wanted = f"{amount.episodes:,} episodes" if amount.episodes else f"{amount.transitions:,} transitions"
        with closing(self.played(key, len(episodes))) as played:
            while amount.exceeds(episodes):
                shard = list[Rows]()
                while SHARD.exceeds(shard) and amount.exceeds([*episodes, *shard]):
                    shard += next(played)
                save_episodes(folder / f"from-{len(episodes):08d}.npz", shard)
                episodes += shard
                rows = sum(len(episode["rewards"]) for episode in episodes)
                self.context.log(f"{key}: {len(episodes):,} episodes, {rows:,} transitions ({wanted} wanted)")
        return EpisodeRows.take(episodes, amount)

    def played(self, key: str, first: int) -> Generator[list[Rows], None, None]:
        """Episodes first, first + 1, ..., as many at a time, stepped together, as it acts in; without end."""
        from dqlab.tools.collect.recording import EpisodeRecorder

        keyed, recorded = [self.context.seed, zlib.crc32(key.encode())], dict[int, Rows]()
        with ExitStack() as opened:
            envs = [opened.enter_context(closing(self.make_env())) for _ in range(self.rows)]
            recorders = [EpisodeRecorder(env, partial(recorded.__setitem__, number)) for number, env in enumerate(envs)]
            for begun in count(first, self.rows):
                seeds = [np.random.SeedSequence([*keyed, begun + each]).generate_state(2) for each in range(self.rows)]
                act = self.begin(int(seeds[0][1]))  # an environment's seed, and that of the behaviour's noise
                begun_by = zip(recorders, seeds, strict=True)
                first_seen = [each.reset(seed=int(at), options={"group": 0})[0] for each, (at, _) in begun_by]
                observations = np.stack(first_seen)
                recorded.clear()
                while len(recorded) < self.rows:
                    actions = act(observations)
                    if not np.isfinite(actions).all():
                        raise RunError(f"The behaviour '{key}' gives actions that are not finite.")
                    for number, recorder in enumerate(recorders):
                        if number not in recorded:
                            observations[number] = recorder.step(np.clip(actions[number], -1.0, 1.0))[0]
                yield [recorded[number] for number in range(self.rows)]

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
    return f"{task.env_id} {sorted(task.arguments().items())} {task.episode_limit} {physics if task.body else ''}"


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


@behaviours.register("run", source="dqlab, `dqlab train`")
class DqlabRun(PolicyBehaviour):
    """A run of dqlab's, `run:PATH`, acting as in its evaluations, with noise of its own.

    Args:
        argument: the run's folder, for its first replica; a replica's folder in it, or another name of `load_policy`.
        context: where it acts.
        checkpoint: `last`, `best`, `offline`, or a .safetensors file.
    """

    rows = 10

    def __init__(self, argument: str, context: CollectionContext, checkpoint: str = "last") -> None:
        super().__init__(argument, context)
        self._which = checkpoint

    def prepare(self) -> None:
        from dqlab.runs.load_policy import EXPORTED, load_policies
        from dqlab.training.execution.modes import Eager
        from dqlab.training.programs import SamplerCore

        source, folder = self.argument, RunFolder(expanded(self.argument))
        if (folder.path / "run.json").exists() and not (folder.path / EXPORTED).exists():
            source = str(folder.replica(folder.replicas()[0].name))  # others may have failed
        policy = load_policies(source, self._which)[0]
        ours = policy.task
        self._check_shapes(f"{self.argument} (a run of {ours.name})", (ours.state_dim,), (ours.action_dim,))
        with policy.ready():
            self._core = SamplerCore(policy.pack, self.rows, Eager())
        self._policy = policy

    def about(self) -> str:
        file, task = self._policy.source.file.absolute(), self._policy.task.name
        replica = file.parent.parent
        return f"dqlab run {replica.parent.name}/{replica.name} on {task}, {file.stem}, acting as in evaluation"

    def identity(self) -> str:
        with self._policy.ready():
            configuration = hashlib.sha256(gin.config_str().encode()).hexdigest()
        return f"run {sha256_of(self._policy.source.file)} {configuration} {self.rows}"

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
    """A policy in a file of stable-baselines3's, `path` once read; actions are mapped from its bounds to [-1, 1]."""

    rows = 10

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
        return f"stable-baselines3's {type(self._policy).__name__} in {self.path.name}, stochastic"

    def identity(self) -> str:
        files = [sha256_of(file) for file in (self.path, self._statistics) if file]
        return f"sb3 {files} False"  # not by its mean, as earlier versions said: their episodes are used again

    def begin(self, seed: int) -> ActionFunction:
        import torch

        generator = np.random.default_rng(seed)

        def act(observations: Array) -> Array:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(generator.integers(2**62)))
                actions, _ = self._policy.predict(self._normalise(observations), deterministic=False)
            return to_unit(np.asarray(actions), self._policy.action_space.low, self._policy.action_space.high)

        return act


@behaviours.register("sb3", source="stable-baselines3 (Raffin et al. 2021)", cites=("raffin2021stable",))
class SB3Policy(SavedPolicy):
    """A policy that stable-baselines3 saved, `sb3:PATH.zip`, of any of its algorithms with continuous actions.

    Observations are normalised by VecNormalize's `vecnormalize.pkl` beside it, where there is one. Such files run code
    when they are read: open only what you trust.
    """

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


WAYS = {"play": "plan", "noisy": "markov"}
"""The last word of a data set's name -> ogbench's module of the oracles that play in it."""
EPISODE_ROWS = 1001
"""Of an episode in OGBench's files of robot arms; the last one only ends it."""
STACKING = {"cube-single": (0, 0), "cube-double": (0, 0.25), "cube-triple": (0.05, 0.35), "cube-quadruple": (0.1, 0.5)}
"""Between which the probability is drawn in each episode that a goal lies on another cube; 0.5 elsewhere."""
RANDOM_ACTIONS = {"cube": 0.1, "scene": 0.1, "puzzle": 0.2}
"""Share of `noisy`'s actions that are uniformly random."""
NOISE_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""Of the noise on `noisy`'s actions (5,): x, y, z, yaw, gripper."""


@behaviours.register(
    "oracle", source=f"{OGBENCH['source']}, data_gen_scripts/generate_manipspace.py", cites=("park2025ogbench",)
)
class ScriptedOracle(PolicyBehaviour):
    """OGBench's oracles on a task of its robot arms, `oracle:play` or `oracle:noisy`: one goal after the other.

    `play` follows plans that noise has moved; `noisy` looks at every step, has Gaussian noise on its actions, and some
    that are random. OGBench draws an episode again in which scene's cube has left the drawer's reach; here it stays.

    Args:
        argument: `play` or `noisy`.
        context: where it acts.
        noise: of plans; of `noisy`'s actions the largest deviation, which is drawn in each episode.
    """

    rewards = False

    def __init__(self, argument: str, context: CollectionContext, noise: float = 0.1) -> None:
        super().__init__(argument, context)
        self._noise = noise

    def prepare(self) -> None:
        task = self.context.task
        self._environment = environment_of(task.name)
        self._first = self._environment.split("-")[0]
        if task.benchmark != BENCHMARK or self.argument not in WAYS or self._first not in RANDOM_ACTIONS:
            there_are = f"oracle:play and oracle:noisy, on OGBench's tasks of {', '.join(RANDOM_ACTIONS)}"
            raise ConfigError(f"'oracle:{self.argument}' on {task.name}: there are {there_are}.")

    def about(self) -> str:
        return f"OGBench's scripted oracle '{self.argument}', noise {self._noise:g}"

    def identity(self) -> str:
        return f"oracle {self.argument} {self._noise} ogbench {package_version('ogbench')}"

    def make_env(self) -> Any:
        """Where goals are set, and episodes are as long as in OGBench's files."""
        from gymnasium.wrappers import TimeLimit

        from dqlab.envs.ogbench_env import RecordedOGBench

        self._env = RecordedOGBench(dataset_of(self.context.task.name))
        return TimeLimit(self._env, EPISODE_ROWS)

    def begin(self, seed: int) -> ActionFunction:
        """What holds for an episode goes by the seed; oracles draw from numpy's global generator, the environment's."""
        generator = np.random.default_rng(seed)
        stacking = generator.uniform(*STACKING.get(self._environment, (0.5, 0.5)))
        deviation, random = 0.0 * NOISE_SCALE, 0.0
        if self.argument == "noisy":
            deviation, random = generator.uniform(0.0, self._noise) * NOISE_SCALE, RANDOM_ACTIONS[self._first]
        oracle_of, current = cache(self._oracle), None

        def act(observations: Array) -> Array:
            nonlocal current
            with self._env.own_numbers():
                if current is None or current.done:
                    begun = observations[0], self._env.info
                    seen = begun if current is None else self._env.unwrapped.set_new_target(p_stack=stacking)
                    current = oracle_of(str(seen[1]["privileged/target_task"]))
                    current.reset(*seen)
                if np.random.uniform() < random:
                    return np.random.uniform(-1.0, 1.0, (1, len(NOISE_SCALE)))
                action = np.asarray(current.select_action(observations[0], self._env.info))
                return np.clip(np.random.normal(action, deviation), -1.0, 1.0)[None]

        return act

    def _oracle(self, goal: str) -> Any:
        """ogbench's oracle for a kind of goal, such as `cube`."""
        way = WAYS[self.argument]
        module = import_module(f"ogbench.manipspace.oracles.{way}.{goal}_{way}")
        own: dict[str, Any] = {"noise": self._noise} if self.argument == "play" else {}
        if self._first == "puzzle":
            own["gripper_always_closed"] = True
        elif (self._first, self.argument, goal) == ("scene", "noisy", "cube"):
            own["max_step"] = 100
        return getattr(module, f"{goal.title()}{way.title()}Oracle")(env=self._env, **own)
