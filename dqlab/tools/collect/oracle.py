"""OGBench's scripted oracles as a behaviour: they collect what its data sets of robot arms are made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from dqlab.envs.ogbench_tasks import BENCHMARK, FACTS, dataset_of, environment_of
from dqlab.errors import ConfigError
from dqlab.machine import package_version
from dqlab.tools.collect.behaviours import ActionFunction, Array, PolicyBehaviour, behaviours

if TYPE_CHECKING:
    from dqlab.tools.collect.ppo import CollectionContext

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
    "oracle", source=f"{FACTS['source']}, data_gen_scripts/generate_manipspace.py", cites=("park2025ogbench",)
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

        def turn(observation: Array, info: Mapping[str, Any]) -> Any:
            oracle = oracle_of(str(info["privileged/target_task"]))
            oracle.reset(observation, info)
            return oracle

        def act(observations: Array) -> Array:
            nonlocal current
            with self._env.own_numbers():
                if current is None:
                    current = turn(observations[0], self._env.info)
                elif current.done:
                    current = turn(*self._env.unwrapped.set_new_target(p_stack=stacking))
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
