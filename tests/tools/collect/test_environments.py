"""Any continuous environment: bounds, refusals, and training on what was collected there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from made_collections import arrays, collect, notes

from dqlab.config import gin_files
from dqlab.envs.custom import describe_environment, gymnasium_task
from dqlab.errors import ConfigError, DqlabError
from dqlab.runs import Experiment
from dqlab.runs.build import load_data
from dqlab.tools.collect.recipe import Collection

RANDOM = ("Collection.mixture={'random': 1.0}", "Collection.ranking_episodes=1")


class Frugal(gymnasium.Env):  # type: ignore[misc]
    """Of some spaces; writes every observation into the same array, and clips actions where they lie."""

    def __init__(self, observation: Any = Box(-1.0, 1.0, (3,)), action: Any = Box(-1.0, 1.0, (3,))) -> None:  # noqa: B008
        self.observation_space, self.action_space = observation, action
        self.seen = np.zeros(3, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action: Any) -> Any:
        reward = float(action[0])
        self.seen[:], action[:] = self.seen + 1, 0.0
        return self.seen, reward, False, False, {}


gymnasium.register("collected/Frugal-v0", entry_point=Frugal)
FRUGAL = "collected/Frugal-v0"
ODD = [
    ("Pendulm-v1", {}, "Did you mean: `Pendulum`. Check its id"),
    ("no_such_module:Made-v0", {}, "No module named 'no_such_module'"),
    ("Pendulum-v1", {"gravity": 1}, "unexpected keyword argument 'gravity'"),
    ("CartPole-v1", {}, "has actions Discrete"),
    (FRUGAL, {"action": Box(-np.inf, np.inf, (2,))}, "unbounded actions"),
    (FRUGAL, {"action": Box(-1, 1, (2, 2))}, r"has actions Box\(.*flat Box"),
    (FRUGAL, {"observation": Box(0, 255, (8, 8, 3))}, "flat Box"),
    (FRUGAL, {}, "set episode_limit"),
]


def test_what_cannot_be_collected_is_refused_in_a_line() -> None:
    """A dictionary is flattened."""
    named = {"observation": Dict(b=Box(0, 1, (2,)), a=Box(0, 1, (1,)))}
    assert describe_environment(FRUGAL, named, 10).state_dim == 3
    for env_id, arguments, said in ODD:
        with pytest.raises(ConfigError, match=said) as caught:
            describe_environment(env_id, arguments, 0 if said == "set episode_limit" else 10)
        assert "\n" not in str(caught.value)


def test_recorded_rows_are_the_environments_own_and_train(tmp_path: Path) -> None:
    """Pendulum's torque lies in [-2, 2]: its own environment gives the rewards for the stored actions times 2.

    The fourth episode of 50 steps ends where 200 rows are full: it is whole.
    """
    path = collect(tmp_path, *RANDOM, "Collection.transitions=200", "Collection.name='made'")
    rows, said = arrays(path), notes(path)
    assert json.loads(said["policies"])[0]["episodes"] == 4
    assert json.loads(said["action_bounds"]) == {"stored": [-1.0, 1.0], "low": [-2.0], "high": [2.0]}
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset()
    cosine, sine, speed = rows["observations"][7].astype(float)
    env.state = np.array([np.arctan2(sine, cosine), speed])
    following, reward, *_ = env.step(2.0 * rows["actions"][7])
    assert reward == pytest.approx(float(rows["rewards"][7]), abs=1e-4)
    assert following == pytest.approx(rows["next_observations"][7], abs=1e-5)
    loaded = gin_files.load_gin([tmp_path / "made.gin"])
    experiment = Experiment()
    task = experiment.resolved_task
    assert (experiment.task, task.min_score, task.max_score) == ("Pendulum-v1", -400.0, 0.0)
    assert task.score(-100.0) == 75.0
    assert len(load_data(experiment)) == 4 * 49
    assert "@gymnasium_task()" in gin_files.operative_text(loaded)


def test_rows_are_kept_though_the_environment_uses_its_arrays_again(tmp_path: Path) -> None:
    few = (f"Collection.env_id='{FRUGAL}'", "Collection.transitions=3", "Collection.episode_limit=3")
    rows = arrays(collect(tmp_path, *RANDOM, *few))
    np.testing.assert_array_equal(rows["observations"][:, 0], [0, 1, 2])
    np.testing.assert_array_equal(rows["next_observations"][:, 0], [1, 2, 3])
    np.testing.assert_array_equal(rows["rewards"], rows["actions"][:, 0])
    assert rows["actions"].all()


WRONG = [
    ("Collection.mixture={'random': 0.5, 'expert': 0.4}", "sum to 1 .these sum to 0.9"),
    ("Collection.mixture={'random': 1.5, 'expert': -0.5}", "positive"),
    ("Collection.mixture={}", "dictionary"),
    ("Collection.mixture={'rndom': 1.0}", "Unknown behaviour 'rndom'. Did you mean 'random'"),
    ("Collection.mixture={'run:nowhere': 1.0}", "nowhere is not the folder of a dqlab run"),
    ("Collection.mixture={'sb3:nowhere.zip': 1.0}", "There is no file 'nowhere.zip'"),
    ("Collection.mixture={'replay:novice': 1.0}", "is no level. Known: expert, full, medium"),
    ("Collection.mixture={'ppo:many': 1.0}", "names no number of steps"),
    ("Collection.transitions=5", "not both"),
    ("Collection.formats=('csv',)", "Unknown data_format 'csv'"),
    ("Collection.task='hopper-medium-v2'", "one of the two"),
    ("Collection.medium_scores=(3, 2)", "the lower one first"),
]


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    for ignored in ({"env_kwargs": {"g": 1}}, {"episode_limit": 10}, {"reference_scores": (0.0, 1.0)}):
        with pytest.raises(ConfigError, match=f"Collection.{next(iter(ignored))} is the environment's"):
            Collection(task="hopper-medium-v2", **ignored)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be above min_score"):
        gymnasium_task("Pendulum-v1", 0.0, -100.0)
    with pytest.raises(DqlabError, match="walker2d-medium-v2"):
        gymnasium_task("Pendulum-v1", -1000.0, -100.0, name="walker2d-medium-v2")
    for binding, said in WRONG:
        with pytest.raises(DqlabError, match=said):
            collect(tmp_path, "Collection.episodes=1", binding, "BehaviourTraining.steps=128")
    assert not list(tmp_path.rglob("*.hdf5"))


def test_a_damaged_ranking_is_named_and_what_one_does_not_know_is_measured_again(tmp_path: Path) -> None:
    few, ranking = ("Collection.episodes=1", "Collection.reference_scores=()"), tmp_path / "ranking.json"
    for text in ("{", "[]"):
        ranking.write_text(text)
        with pytest.raises(DqlabError, match="ranking.json.*Delete it, and run the same command again"):
            collect(tmp_path, *RANDOM, *few)
    for entry in (5, {"return": 1.0}, {"of": " 1", "return": "3"}):
        ranking.write_text(json.dumps({"uniformly random": entry}))
        said = notes(collect(tmp_path, *RANDOM, *few))
        assert json.loads(ranking.read_text())["uniformly random"]["return"] < 0
        assert "random actions" in said["reference_scores"]
