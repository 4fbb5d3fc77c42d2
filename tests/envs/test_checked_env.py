"""The boundary to an environment: what reaches it, what it may give, how its mistakes are told, and found early."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from dqlab.envs import make_env, tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.boxed import checked_env
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import from_unit, to_unit
from dqlab.errors import ConfigError, EnvError, NotFiniteError
from dqlab.testing import check_environment

FINE = (np.zeros(2, np.float32), 1.0, False, False, {})


class Made(gymnasium.Env):
    """With the spaces that are asked for, and what `step` and `start` give; keeps the actions that reach it."""

    def __init__(self, action: Any = None, step: Any = FINE, start: Any = (FINE[0], {}), states: Any = None) -> None:
        if start is None:
            raise RuntimeError("no display\nand more")
        self.observation_space, self.action_space = states or Box(-np.inf, np.inf, (2,)), action or Box(-1.0, 1.0, (2,))
        self._step, self._start, self.got = step, start, list[Any]()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._start() if callable(self._start) else self._start

    def step(self, action: Any) -> Any:
        self.got.append(action)
        return self._step() if callable(self._step) else self._step


gymnasium.register("guarded/Made-v0", Made, disable_env_checker=True)


def made(**arguments: Any) -> Any:
    return make_env(describe_environment("guarded/Made-v0", arguments, 10))


BOXES = [
    (Box(300.0, 500.0, (2,)), [[300.0, 400.0], [500.0, 450.0]]),
    (Box(np.array([-2.0, 0.5]), np.array([2.0, 0.5]), dtype=np.float64), [[-2.0, 0.5], [2.0, 0.5]]),
    (Box(np.array([-3, 7]), np.array([4, 7]), dtype=np.int64), [[-3, 7], [4, 7]]),
    (Box(0, 255, (2,), np.uint8), [[0, 128], [255, 191]]),
]


@pytest.mark.parametrize(("space", "wanted"), BOXES, ids=lambda value: str(value)[:40])
def test_actions_are_the_spaces_own(space: Box, wanted: Any) -> None:
    """Out of bounds, in another dtype, of a dimension with one value only: what arrives, the space contains."""
    env = made(action=space)
    env.reset(seed=0)
    actions = [[-1.0, 0.0], [1.0 + 1e-7, 0.5], [-1.5, 7.0], [0.3, -0.999999]]
    for action in [*np.array(actions), *np.array(actions, np.float32)]:
        env.step(action)
    got = env.unwrapped.got
    assert all(space.contains(action) for action in got), got
    np.testing.assert_allclose(got[:2], wanted, rtol=1e-6)
    np.testing.assert_allclose(got[4:6], wanted, rtol=1e-6)
    bare = checked_env(gymnasium.make("guarded/Made-v0", action=space), 2)  # in its own units
    bare.reset(seed=0)
    bare.step(space.high.astype(np.float64) + 0.4)
    assert space.contains(bare.unwrapped.got[0]), bare.unwrapped.got


def test_states_are_not_cut_to_the_types_of_the_first() -> None:
    """A reset may give integers, as `np.array([0, 0])` is, where steps give floating-point numbers."""
    task = describe_environment(
        "guarded/Made-v0", {"start": (np.zeros(2, int), {}), "step": (np.full(2, 0.3), *FINE[1:])}, 10
    )
    envs = GymnasiumEnvironments(task, "modern")
    states = envs.reset([0], [0])
    states[[0]] = envs.step([0], np.zeros((1, 2))).state
    assert states.tolist() == [[0.3, 0.3]]


def test_unit_actions_there_and_back() -> None:
    low, high = np.array([-2.0, 0.5, 300.0]), np.array([2.0, 0.5, 500.0])
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (7, 3))
    back = to_unit(from_unit(actions, low, high), low, high)
    np.testing.assert_allclose(back[:, [0, 2]], actions[:, [0, 2]], atol=1e-12)
    assert not back[:, 1].any()


UNBOUNDED = Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"action": UNBOUNDED}, "unbounded actions"), ({"start": None}, "raised RuntimeError: no display")],
)
def test_what_cannot_be_made_is_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        made(**arguments)
    assert "\n" not in str(caught.value)


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


PARTS = Dict(a=Box(0, 1, (1,)), b=Box(0, 1, (1,)))
WRONG = [
    ({"step": raising(ZeroDivisionError("by 0"))}, r"raised ZeroDivisionError: by 0 \(.*test_checked_env.py:\d+\)"),
    ({"step": raising(SystemExit("no licence"))}, "raised SystemExit: no licence"),
    ({"step": raising(RuntimeError("first\nsecond"))}, "raised RuntimeError: first "),
    ({"step": FINE[:4]}, r"gives 4 values instead of \(observation, reward, terminated, truncated, info\)"),
    ({"step": None}, "gives None instead of"),
    ({"step": (np.zeros(3), *FINE[1:])}, r"observation of shape \(3,\); its space says \(2,\)"),
    ({"step": (None, *FINE[1:])}, "observation of shape"),
    ({"step": (np.array(["a", "b"]), *FINE[1:])}, "no numbers"),
    ({"step": (FINE[0], "1", *FINE[2:])}, "gives '1' as the reward"),
    ({"step": (FINE[0], np.zeros(2), *FINE[2:])}, "gives a ndarray as the reward"),
    ({"step": (*FINE[:2], np.array([True, False]), False, {})}, "raised ValueError"),
    ({"step": (np.array([0.0, np.nan]), *FINE[1:])}, "gives a NaN or infinite observation"),
    ({"step": (FINE[0], np.nan, *FINE[2:])}, "gives a NaN or infinite reward"),
    ({"step": (FINE[0], -np.inf, *FINE[2:])}, "gives a NaN or infinite reward"),
    ({"start": FINE[0]}, "gives a ndarray instead of"),
    ({"start": (np.zeros(3), {})}, r"observation of shape \(3,\)"),
    ({"start": (np.full(2, np.inf), {})}, "NaN or infinite observation"),
    ({"start": raising(SystemExit(3))}, "raised SystemExit: 3"),
    ({"start": ({"a": np.zeros(1, np.float32)}, {}), "states": PARTS}, "raised KeyError"),
]


def one_step(env: Any) -> None:
    env.reset(seed=17)
    env.step(np.zeros(2))


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_goes_wrong_is_one_line(arguments: dict[str, Any], said: str) -> None:
    """With the environment, the step and the seed."""
    with pytest.raises(EnvError, match=said) as caught:
        one_step(made(**arguments))
    text = str(caught.value)
    assert text.startswith("The environment 'guarded/Made-v0' ")
    assert text.endswith(f", at {'the start' if 'start' in arguments else 'step 1'} of an episode with seed 17.")
    assert "\n" not in text
    assert isinstance(caught.value, NotFiniteError) == ("NaN or infinite" in said)


def test_ctrl_c_is_nobodys_mistake() -> None:
    with pytest.raises(KeyboardInterrupt):
        one_step(made(step=raising(KeyboardInterrupt())))


def test_flags_and_rewards_of_any_kind_are_passed_on_plainly() -> None:
    env = made(step=([0, 1], np.array([2]), np.True_, 0, {}))
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(np.zeros(2))
    assert (observation.tolist(), reward, terminated, truncated) == ([0, 1], 2.0, True, False)
    assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]


def test_the_robots_get_float64_as_before() -> None:
    """D4RL's rewards are computed from the action as it is given: casting it would change their last bits."""
    env = make_env(tasks.get("hopper-medium-v2"))
    action, given = np.random.default_rng(0).uniform(-1.0, 1.0, 3), []
    for each in (env, env.env):
        env.reset(seed=0)
        observation, reward, *_ = each.step(action)
        given.append((np.asarray(observation).tobytes(), float(reward)))
    assert given[0] == given[1]


STEPS_OF_ALL = count()
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"action": Discrete(3)}, "has actions Discrete"),
    ({"step": (FINE[0], np.nan, *FINE[2:])}, "gives a NaN or infinite reward, at step 1 of an episode with seed 0"),
    ({"step": lambda: (FINE[0], next(STEPS_OF_ALL), *FINE[2:])}, "'guarded/Made-v0', stepped in turn, give different"),
    (
        {"start": lambda: (np.array([random.random(), 0.0], np.float32), {})},
        "starts otherwise when it is reset with the same seed 0: it draws from something else",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTS, ids=lambda value: str(value)[:30])
def test_a_users_environment_is_checked_before_anything_is_trained(arguments: dict[str, Any], said: str) -> None:
    check_environment("guarded/Made-v0", {}, 5)
    with pytest.raises(AssertionError, match=said) as caught:
        check_environment("guarded/Made-v0", arguments, 10)
    assert "\n" not in str(caught.value)
