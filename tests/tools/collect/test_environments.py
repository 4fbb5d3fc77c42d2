"""Any continuous environment: bounds, refusals, and training on what was collected there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, MultiDiscrete
from made_collections import arrays, collect, notes

from dqlab.config import gin_files
from dqlab.envs import make_env, tasks
from dqlab.envs.custom import describe_environment, gymnasium_task
from dqlab.errors import ConfigError, DqlabError
from dqlab.runs import Experiment
from dqlab.runs.build import load_data
from dqlab.tools.collect.episodes import Rows
from dqlab.tools.collect.recipe import Collection
from dqlab.tools.collect.recording import EpisodeRecorder

FLAT = Box(-1.0, 1.0, (3,))
RANDOM = ("Collection.mixture={'random': 1.0}",)


class Made(gymnasium.Env):  # type: ignore[misc]
    """An environment with the spaces that are asked for; the reward is the first action."""

    def __init__(self, observation: Any = FLAT, action: Any = FLAT) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), float(action[0]), False, False, {}


gymnasium.register("collected/Made-v0", entry_point=Made)


class Frugal(Made):
    """Writes every observation into the same array, and clips actions where they lie."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps, self.seen = 0, np.zeros(3, dtype=np.float32)
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.seen[:], action[:] = self.steps, 0.0
        return self.seen, 0.0, False, self.steps == 3, {}


ODD = [
    ("Pendulm-v1", {}, "Did you mean: `Pendulum`. Check its id"),
    ("no_such_module:Made-v0", {}, "No module named 'no_such_module'"),
    ("Pendulum-v1", {"gravity": 1}, "unexpected keyword argument 'gravity'"),
    ("CartPole-v1", {}, "has actions Discrete"),
    ("collected/Made-v0", {"action": MultiDiscrete([2, 2])}, "has actions MultiDiscrete"),
    ("collected/Made-v0", {"action": Box(-np.inf, np.inf, (2,))}, "unbounded actions"),
    ("collected/Made-v0", {"action": Box(-1, 1, (2, 2))}, r"has actions Box\(.*flat Box"),
    ("collected/Made-v0", {"observation": Box(0, 255, (8, 8, 3))}, "flat Box"),
    ("collected/Made-v0", {"observation": MultiDiscrete([3])}, "flat Box"),
    ("collected/Made-v0", {}, "set episode_limit"),
]


@pytest.mark.parametrize(("env_id", "arguments", "said"), ODD, ids=lambda value: str(value)[:30])
def test_what_cannot_be_collected_is_refused_in_a_line(env_id: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        describe_environment(env_id, arguments, 0 if said == "set episode_limit" else 10)
    assert "\n" not in str(caught.value)


def test_a_dictionary_is_flattened_and_actions_are_shares_of_the_bounds() -> None:
    observation = Dict(b=Box(0, 1, (2,)), a=Box(0, 1, (1,)))
    action = Box(np.array([0.0, -4.0]), np.array([10.0, 4.0]))
    task = describe_environment("collected/Made-v0", {"observation": observation, "action": action}, 10)
    assert (task.state_dim, task.action_dim) == (3, 2)
    env = make_env(task)
    env.reset(seed=0)
    rewards = [env.step(np.array([action, 0.0]))[1] for action in (-1.0, 0.0, 1.0)]
    assert rewards == pytest.approx([0.0, 5.0, 10.0])


def test_recorded_rows_are_the_environments_own(tmp_path: Path) -> None:
    """Pendulum's torque lies in [-2, 2]: its own environment gives the rewards for the stored actions times 2."""
    path = collect(tmp_path, *RANDOM, "Collection.episodes=1", "Collection.reference_scores=()")
    rows, said = arrays(path), notes(path)
    assert json.loads(said["action_bounds"]) == {"stored": [-1.0, 1.0], "low": [-2.0], "high": [2.0]}
    assert "random actions" in said["reference_scores"]
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset()
    cosine, sine, speed = rows["observations"][7].astype(float)
    env.state = np.array([np.arctan2(sine, cosine), speed])
    following, reward, *_ = env.step(2.0 * rows["actions"][7])
    assert reward == pytest.approx(float(rows["rewards"][7]), abs=1e-4)
    assert following == pytest.approx(rows["next_observations"][7], abs=1e-5)


def test_rows_are_kept_though_the_environment_uses_its_arrays_again() -> None:
    episodes: list[Rows] = []
    recorder = EpisodeRecorder(Frugal(), episodes.append)
    recorder.reset()
    action = np.zeros(3, dtype=np.float32)
    for step in range(3):
        action[:] = 0.1 * (step + 1)
        recorder.step(action)
    (rows,) = episodes
    np.testing.assert_array_equal(rows["observations"][:, 0], [0, 1, 2])
    np.testing.assert_array_equal(rows["next_observations"][:, 0], [1, 2, 3])
    np.testing.assert_allclose(rows["actions"][:, 0], [0.1, 0.2, 0.3], rtol=1e-6)


def test_an_episode_that_ends_where_rows_are_full_is_whole(tmp_path: Path) -> None:
    """Four episodes of 50 steps."""
    path = collect(tmp_path, *RANDOM, "Collection.transitions=200", "Collection.reference_scores=()")
    assert json.loads(notes(path)["policies"])[0]["episodes"] == 4


def test_the_written_gin_file_makes_the_task_again(tmp_path: Path) -> None:
    collect(tmp_path, *RANDOM, "Collection.episodes=2", "Collection.name='made'")
    loaded = gin_files.load_gin([tmp_path / "made.gin"])
    experiment = Experiment()
    task = experiment.resolved_task
    assert (experiment.task, task.min_score, task.max_score) == ("Pendulum-v1", -400.0, 0.0)
    assert task.score(-100.0) == 75.0
    assert len(load_data(experiment)) == 2 * 49
    assert "@gymnasium_task()" in gin_files.operative_text(loaded)
    tasks.remove("Pendulum-v1")


WRONG = [
    ("Collection.mixture={'random': 0.5, 'expert': 0.4}", "sum to 1 .these sum to 0.9"),
    ("Collection.mixture={'random': 1.5, 'expert': -0.5}", "positive"),
    ("Collection.mixture={}", "dictionary"),
    ("Collection.mixture={'rndom': 1.0}", "Unknown behaviour 'rndom'. Did you mean 'random'"),
    ("Collection.mixture={'run:nowhere': 1.0}", "nowhere is not the folder of a dqlab run"),
    ("Collection.mixture={'sb3:nowhere.zip': 1.0}", "There is no file 'nowhere.zip'"),
    ("Collection.mixture={'python:json:nothing': 1.0}", "cannot be imported"),
    ("Collection.mixture={'replay:novice': 1.0}", "is no level. Known: expert, full, medium"),
    ("Collection.mixture={'ppo:many': 1.0}", "names no number of steps"),
    ("Collection.transitions=5", "not both"),
    ("Collection.formats=('csv',)", "Unknown data_format 'csv'"),
    ("Collection.task='hopper-medium-v2'", "one of the two"),
    ("Collection.medium_scores=(3, 2)", "the lower one first"),
]


@pytest.mark.parametrize(("binding", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_message(binding: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DqlabError, match=said):
        collect(tmp_path, "Collection.episodes=1", binding, "BehaviourTraining.steps=128")
    assert not list(tmp_path.rglob("*.hdf5"))


def test_mistakes_with_tasks() -> None:
    for ignored in ({"env_kwargs": {"g": 1}}, {"episode_limit": 10}, {"reference_scores": (0.0, 1.0)}):
        with pytest.raises(ConfigError, match=f"Collection.{next(iter(ignored))} is the environment's"):
            Collection(task="hopper-medium-v2", **ignored)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be above min_score"):
        gymnasium_task("Pendulum-v1", 0.0, -100.0)
    with pytest.raises(DqlabError, match="walker2d-medium-v2"):
        gymnasium_task("Pendulum-v1", -1000.0, -100.0, name="walker2d-medium-v2")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_ranking_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "ranking.json").write_text(text)
    with pytest.raises(DqlabError, match="ranking.json.*Delete it, and run the same command again"):
        collect(tmp_path, *RANDOM, "Collection.episodes=1", "Collection.reference_scores=()")


@pytest.mark.parametrize("entry", [5, None, {"return": 1.0}, {"of": " 1", "return": "3"}])
def test_what_a_ranking_does_not_know_is_measured_again(entry: Any, tmp_path: Path) -> None:
    (tmp_path / "ranking.json").write_text(json.dumps({"uniformly random": entry}))
    few = ("Collection.episodes=1", "Collection.ranking_episodes=1", "Collection.reference_scores=()")
    collect(tmp_path, *RANDOM, *few)
    assert json.loads((tmp_path / "ranking.json").read_text())["uniformly random"]["return"] < 0
