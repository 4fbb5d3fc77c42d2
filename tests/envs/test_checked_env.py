"""The boundary to an environment: what reaches it, what it may give, how its mistakes are told, and found early."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from dqlab.envs import make_env, tasks
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import from_unit, to_unit
from dqlab.errors import ConfigError, DqlabError, EnvError, NotFiniteError
from dqlab.testing import check_environment

FINE = (np.zeros(2, np.float32), 1.0, False, False, {})


class Made(gymnasium.Env):
    """With the actions that are asked for, and what `step` and `start` give; keeps the actions that reach it."""

    def __init__(self, action: Any = None, step: Any = FINE, start: Any = (FINE[0], {}), odd: bool = False) -> None:
        if odd:
            raise RuntimeError("no display\nand more")
        self.observation_space, self.action_space = Box(-np.inf, np.inf, (2,)), action or Box(-1.0, 1.0, (2,))
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
    (Box(300.0, 500.0, (2,), np.float64), [[300.0, 400.0], [500.0, 450.0]]),
    (Box(-3, 4, (2,), np.int64), [[-3, 0], [4, 2]]),
    (Box(0, 255, (2,), np.uint8), [[0, 128], [255, 191]]),
    (Box(np.array([-2.0, 0.5]), np.array([2.0, 0.5]), dtype=np.float64), [[-2.0, 0.5], [2.0, 0.5]]),
    (Box(np.array([-2, 7]), np.array([2, 7]), dtype=np.int32), [[-2, 7], [2, 7]]),
]


@pytest.mark.parametrize(("space", "wanted"), BOXES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_are_the_spaces_own(space: Box, wanted: Any, dtype: Any) -> None:
    """Out of bounds, in another dtype, of a dimension with one value only: what arrives, the space contains."""
    env = made(action=space)
    env.reset(seed=0)
    for action in ([-1.0, 0.0], [1.0 + 1e-7, 0.5], [-1.5, 7.0], [0.3, -0.999999]):
        env.step(np.array(action, dtype=dtype))
    got = env.unwrapped.got
    assert all(space.contains(action) for action in got), got
    np.testing.assert_allclose(got[:2], wanted, rtol=1e-6)


def test_unit_actions_there_and_back() -> None:
    low, high = np.array([-2.0, 0.5, 300.0]), np.array([2.0, 0.5, 500.0])
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (7, 3))
    back = to_unit(from_unit(actions, low, high), low, high)
    np.testing.assert_allclose(back[:, [0, 2]], actions[:, [0, 2]], atol=1e-12)
    assert not back[:, 1].any()


def test_integers_without_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="unbounded actions"):
        made(action=Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64))


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


STEPS = [
    (raising(ZeroDivisionError("by zero")), r"raised ZeroDivisionError: by zero \(.*test_checked_env.py:\d+\)"),
    (raising(SystemExit("no licence")), "raised SystemExit: no licence"),
    (raising(RuntimeError("first\nsecond")), "raised RuntimeError: first "),
    (FINE[:4], r"gives 4 values instead of \(observation, reward, terminated, truncated, info\)"),
    (None, "gives None instead of"),
    ((np.zeros(3), *FINE[1:]), r"observation of shape \(3,\); its space says \(2,\)"),
    ((None, *FINE[1:]), "observation of shape"),
    ((np.array(["a", "b"]), *FINE[1:]), "no numbers"),
    ((FINE[0], None, *FINE[2:]), "gives None as the reward"),
    ((FINE[0], "1", *FINE[2:]), "gives '1' as the reward"),
    ((FINE[0], np.zeros(2), *FINE[2:]), "gives a ndarray as the reward"),
    ((*FINE[:2], np.array([True, False]), False, {}), "raised ValueError"),
]


@pytest.mark.parametrize(("step", "said"), STEPS, ids=lambda value: str(value)[:30])
def test_a_step_that_goes_wrong_is_one_line(step: Any, said: str) -> None:
    env = made(step=step)
    env.reset(seed=17)
    with pytest.raises(EnvError, match=said) as caught:
        env.step(np.zeros(2))
    text = str(caught.value)
    assert text.startswith("The environment 'guarded/Made-v0' ")
    assert text.endswith(", at step 1 of an episode with seed 17.")
    assert "\n" not in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["observation", "reward"])
def test_what_is_not_finite_is_named(value: float, where: str) -> None:
    given = (np.array([0.0, value]), *FINE[1:]) if where == "observation" else (FINE[0], value, *FINE[2:])
    env = made(step=given)
    env.reset(seed=3)
    with pytest.raises(NotFiniteError, match=f"gives a NaN or infinite {where}, at step 1 of an episode with seed 3"):
        env.step(np.zeros(2))


STARTS = [
    (FINE[0], "gives a ndarray instead of"),
    ((np.zeros(3), {}), r"observation of shape \(3,\)"),
    ((np.full(2, np.nan), {}), "NaN or infinite observation"),
    (raising(SystemExit(3)), "raised SystemExit: 3"),
]


@pytest.mark.parametrize(("start", "said"), STARTS, ids=lambda value: str(value)[:30])
def test_a_start_that_goes_wrong_is_one_line(start: Any, said: str) -> None:
    with pytest.raises(EnvError, match=f"{said}.*at the start of an episode with seed 5"):
        made(start=start).reset(seed=5)


def test_ctrl_c_is_nobodys_mistake() -> None:
    env = made(step=raising(KeyboardInterrupt()))
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros(2))


def test_a_constructor_that_fails_is_one_line() -> None:
    with pytest.raises(DqlabError, match="raised RuntimeError: no display") as caught:
        made(odd=True)
    assert "\n" not in str(caught.value)


def test_flags_and_rewards_of_any_kind_are_passed_on_plainly() -> None:
    given = ([0, 1], np.array([2]), np.True_, 0, {})
    env = made(step=given)
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(np.zeros(2))
    assert (observation.tolist(), reward, terminated, truncated) == ([0, 1], 2.0, True, False)
    assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]


def test_dictionaries_whose_parts_are_missing_are_one_line() -> None:
    gymnasium.register("guarded/Parts-v0", Parts)
    env = make_env(describe_environment("guarded/Parts-v0", {}, 10))
    with pytest.raises(EnvError, match="'guarded/Parts-v0' raised KeyError.*at the start of an episode with seed 1"):
        env.reset(seed=1)


class Parts(Made):
    def __init__(self) -> None:
        super().__init__(start=({"a": np.zeros(1, np.float32)}, {}))
        self.observation_space = Dict(a=Box(0, 1, (1,)), b=Box(0, 1, (1,)))


def test_the_robots_get_float64_as_before() -> None:
    """D4RL's rewards are computed from the action as it is given: casting it would change their last bits."""
    env = make_env(tasks.get("hopper-medium-v2"))
    bare = env.env
    for wrapped in (env, bare):
        wrapped.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1.0, 1.0, 3)
    ours = env.step(action)
    env.reset(seed=0)
    theirs = bare.step(action)
    assert (ours[0].tobytes(), ours[1]) == (np.asarray(theirs[0]).tobytes(), float(theirs[1]))
    assert sys.getsizeof(ours[1]) == sys.getsizeof(1.0)


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
    with pytest.raises(AssertionError, match=said) as caught:
        check_environment("guarded/Made-v0", arguments, 10)
    assert "\n" not in str(caught.value)


def test_a_good_one_passes() -> None:
    check_environment("guarded/Made-v0", {}, 5)
    check_environment("Pendulum-v1")
