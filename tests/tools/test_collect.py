"""`dqlab collect`: any continuous environment, every behaviour and recipe; again, killed, on a full disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import ROOT, TINY, Run, refused
from gymnasium.spaces import Box, Dict
from made_collections import arrays, collect, notes

from dqlab.config import gin_files
from dqlab.envs import make_env, tasks
from dqlab.envs.custom import describe_environment, gymnasium_task
from dqlab.errors import ConfigError, DataError, DqlabError, RunError
from dqlab.runs import Experiment, train
from dqlab.runs.experiment import load_data
from dqlab.testing import check
from dqlab.tools.collect.behaviours import behaviours
from dqlab.tools.collect.recipe import Collection
from dqlab.tracking.run_folder import claim_folder

sb3 = pytest.importorskip("stable_baselines3")
RECIPES = sorted(path for path in (ROOT / "gin" / "collect").glob("*.gin") if path.stem not in ("base", "ogbench"))
KINDS = [name for name in behaviours.names() if name != "oracle"]
"""Those that act anywhere; OGBench's oracle is tested with its environments (tests/data/test_ogbench.py)."""
WHOLE = (
    "Collection.mixture={'random': 0.25, 'replay': 0.25, 'medium': 0.5}",
    "Collection.transitions=600",
    "Collection.name='set'",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One collection's folder: what is trained there serves all tests; and what other behaviours act by."""
    place = tmp_path_factory.mktemp("collection")
    model = sb3.SAC("MlpPolicy", gymnasium.make("Pendulum-v1"), policy_kwargs={"net_arch": [8]}, seed=0)
    model.save(place / "policy.zip")
    collect(place, "Collection.mixture={'random': 1.0}", "Collection.name='first'", "Collection.episodes=4")
    small = [*TINY[1:], "Training.steps=20", "load_dataset.standardise_states=True", "Experiment.seeds=(3, 4)"]
    train(gin_files.load_gin([place / "first.gin"], small), place / "run", quiet=True)
    collect(place, *WHOLE)
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_every_behaviour_gives_its_rows_again(kind: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "behaviour").symlink_to(folder / "behaviour")
    arguments = {"ppo": ":128", "run": f":{folder / 'run' / 'seed-4'}", "sb3": f":{folder / 'policy.zip'}"}
    key = kind + arguments.get(kind, "")
    found = []
    for _ in range(2):
        path = collect(tmp_path, f"Collection.mixture={{{key!r}: 1.0}}", "Collection.transitions=120")
        found.append(arrays(path))
        (known,) = json.loads(notes(path)["policies"])
        for kept in (tmp_path / "episodes").rglob("*.npz"):
            kept.unlink()
    first, rows = found
    assert all(np.array_equal(first[name], rows[name]) for name in rows)
    assert np.abs(rows["actions"]).max() <= 1.0
    ends = rows["terminals"] | rows["timeouts"]
    assert ends[-1], "what is cut says so"
    assert np.array_equal(rows["next_observations"][:-1][~ends[:-1]], rows["observations"][1:][~ends[:-1]])
    assert (known["name"], known["transitions"], len(rows["rewards"])) == (key, 120, 120)
    assert kind != "run" or "run/seed-4 on Pendulum-v1" in known["about"]


def test_a_run_acts_by_its_first_replica_though_others_failed(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(run / "seed-4")
    path = collect(tmp_path, f"Collection.mixture={{'run:{run}': 1.0}}", "Collection.episodes=1")
    assert "run/seed-3 on Pendulum-v1" in json.loads(notes(path)["policies"])[0]["about"]


def test_every_recipe_gives_its_shares(folder: Path) -> None:
    for recipe in RECIPES:
        path = collect(folder, "Collection.transitions=199", "Collection.episodes=0", files=(str(recipe),))
        parts = json.loads(notes(path)["policies"])
        assert all(abs(known["transitions"] - 199 * known["share"]) < 1 for known in parts), recipe
        assert sum(known["transitions"] for known in parts) == len(arrays(path)["rewards"]) == 199


def test_replay_is_all_that_was_experienced(folder: Path) -> None:
    full = "Collection.mixture={'replay:full': 1.0}"
    whole = arrays(collect(folder, full))
    assert len(whole["rewards"]) == 256, "every step of PPO's"
    for amount, most in (("Collection.episodes=2", 100), ("Collection.transitions=100", 100)):
        thin = arrays(collect(folder, full, amount))["observations"]
        assert 64 <= len(thin) <= most
        places = [np.flatnonzero((whole["observations"] == row).all(axis=1))[0] for row in thin]
        assert places == sorted(places)
        assert min(places) < 64 < 128 <= max(places), "thinned evenly over training"
    with pytest.raises(DqlabError, match="fewer than are asked for"):
        collect(folder, "Collection.mixture={'replay': 1.0}", "Collection.transitions=1000")


def test_what_is_trained_is_used_again_with_the_same_settings(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("behaviour/*/*.zip")}
    rows, ranking = (folder / "set.hdf5").read_bytes(), (folder / "ranking.json").stat().st_mtime_ns
    collect(folder, *WHOLE)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("behaviour/*/*.zip")} == before
    assert ((folder / "set.hdf5").read_bytes(), (folder / "ranking.json").stat().st_mtime_ns) == (rows, ranking)
    one = ("Collection.mixture={'ppo': 1.0}", "Collection.episodes=1")
    sets = [arrays(collect(folder, *one, f"Collection.seed={seed}"))["actions"] for seed in (0, 1)]
    assert not np.array_equal(*sets), "another seed gives other rows"
    trained = set(folder.glob("behaviour/*"))
    collect(folder, *one, "BehaviourTraining.discount=0.95")
    assert len(set(folder.glob("behaviour/*")) - trained) == 1


def test_a_level_that_nothing_reaches_is_told_with_what_there_is(folder: Path) -> None:
    with pytest.raises(DataError, match="No expert policy: no checkpoint scores between 85 and 150 .best: .*nearest"):
        collect(folder, "Collection.expert_scores=(85.0, 150.0)", "Collection.episodes=6")


HOPPER = str(ROOT / "gin" / "collect_hopper.gin")
SHORT = [f"BehaviourTraining.{each}" for each in ("steps=2048", "checkpoint_every=1024", "n_envs=4")]
FEW = ("episodes=6", "ranking_episodes=2", "medium_scores=(-10.0, 100.0)", "expert_scores=(-10.0, 100.0)")
BUDGET = [*SHORT, *(f"Collection.{each}" for each in FEW)]


def test_the_set_has_d4rls_layout_and_trains_its_task(tmp_path: Path, in_process: Run) -> None:
    """The recorded positions, velocities and action give the recorded next observation and reward."""
    done = in_process("collect", "--gin", HOPPER, "--out", "out", "--set", *BUDGET)
    path = tmp_path / "out" / "hopper-medium-expert-mini.hdf5"
    assert done.stdout.splitlines()[-1] == str(path), done.stderr
    rows, said = arrays(path), notes(path)
    assert (rows["observations"].shape[1], rows["actions"].shape[1]) == (11, 3)
    assert int((rows["terminals"] | rows["timeouts"]).sum()) == 6
    assert abs(rows["actions"]).max() <= 1.0
    assert "mujoco210" in said["environment"]
    assert "Collection.episodes = 6" in said["config"]
    assert '"episodes": 3' in said["policies"]
    env = make_env(tasks.get("hopper-medium-v2"))
    env.reset(seed=0)
    for row in range(0, len(rows["rewards"]), 7):
        env.reset()
        env.unwrapped.set_state(rows["infos/qpos"][row], rows["infos/qvel"][row])
        following, reward, *_ = env.step(rows["actions"][row])
        assert following == pytest.approx(rows["next_observations"][row], abs=1e-5)
        assert reward == pytest.approx(float(rows["rewards"][row]), abs=1e-4)
    sources = f"load_dataset.sources=('file:{path}',)"
    gin_files.load_gin([ROOT / "gin" / "diffql_walker2d.gin"], ["Experiment.task='hopper-medium-expert-v2'", sources])
    assert len(load_data(Experiment())) == len(rows["rewards"]) - 1 - int(rows["timeouts"][:-1].sum())


def test_without_the_trainer_nothing_is_left_behind(tmp_path: Path, dqlab: Run) -> None:
    (tmp_path / "stable_baselines3.py").write_text("raise ImportError('not installed')")
    done = dqlab("collect", "--gin", HOPPER, "--out", "out", "--set", *BUDGET)
    refused(done, "Collecting needs stable-baselines3: pip install ", "[collect]'")
    assert not (tmp_path / "out" / "behaviour").exists()


def start(work: Callable[..., Any], *args: Any) -> multiprocessing.process.BaseProcess:
    """A real process, forked, so that nothing is imported anew."""
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    return child


def files(folder: Path, half_written: bool) -> set[Path]:
    return {path for path in folder.rglob("*.*") if path.is_file() and (half_written or path.suffix != ".tmp")}


def test_killed_at_every_file_it_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    kills = 0
    while True:
        writing = kills % 2 == 0  # every other time while a file is being written, so that it comes forward
        before, child = files(tmp_path, writing), start(collect, tmp_path, *WHOLE)
        while child.is_alive() and files(tmp_path, writing) <= before:
            time.sleep(0.001)
        child.kill()
        child.join()
        kills += 1
        if (tmp_path / "set.gin").exists():
            break
        assert kills < 60
    assert kills >= 8, "it was killed in training, in ranking, in rolling out and in writing"
    collect(tmp_path, *WHOLE)
    assert (tmp_path / "set.hdf5").read_bytes() == (folder / "set.hdf5").read_bytes()


DAMAGED = ("step-000000128.zip", "step-000000128.pkl", "experience/step-000000128.npz")


def test_a_damaged_file_is_named_and_made_anew(folder: Path) -> None:
    before = (folder / "set.hdf5").read_bytes()
    known = (folder / "behaviour").glob("*/experience/step-000000128.npz")
    for path in [found.parents[1] / name for found in known for name in DAMAGED]:
        sound = path.read_bytes()
        middle = len(sound) // 2
        for damaged in (sound[:middle], sound[:middle] + bytes(64) + sound[middle + 64 :], b""):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=f"{path.name} .*is damaged.*Delete it and run the same command again"):
                collect(folder, *WHOLE)
        path.unlink()
        collect(folder, *WHOLE)
        assert (folder / "set.hdf5").read_bytes() == before


def run_out_of_space(folder: Path, limit: int, *bindings: str) -> None:
    """Files cannot become larger than the limit: the system refuses the write, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        collect(folder, *bindings)
    except DqlabError as error:
        (folder / "said").write_text(str(error))
    os._exit(0)


@pytest.mark.parametrize(("limit", "at", "kind"), [(20_000, "behaviour", "ppo"), (95_000, "episodes", "random")])
def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(
    limit: int, at: str, kind: str, tmp_path: Path
) -> None:
    mixture = f"Collection.mixture={{{kind!r}: 1.0}}"
    start(run_out_of_space, tmp_path, limit, mixture, "Collection.transitions=5000").join()
    said = (tmp_path / "said").read_text()
    assert f"Cannot write {tmp_path / at}" in said
    assert "Free some space and run the same command again" in said
    assert not [*tmp_path.rglob("*.hdf5"), *tmp_path.rglob("*.tmp")]


def test_two_do_not_collect_into_one_folder(tmp_path: Path) -> None:
    with claim_folder(tmp_path), pytest.raises(RunError, match="in use"):
        collect(tmp_path, "Collection.mixture={'random': 1.0}", "Collection.episodes=1")


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


def test_a_set_names_the_environment_that_its_task_is_made_of(tmp_path: Path) -> None:
    task = ("Collection.task='mujoco-inverteddoublependulum-expert-v0'", "Collection.env_id=''")
    own = ("Collection.episode_limit=0", "Collection.reference_scores=()", "Collection.episodes=1")
    said = notes(collect(tmp_path, *RANDOM, *task, *own))
    assert said["environment"] == "InvertedDoublePendulum-v5, physics its own, limit 1000 steps"


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


def test_a_behaviour_of_ones_own_as_the_page_has_it(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "collecting.md").read_text()
    exec(page.split("```python\n")[2].split("```")[0], {"__name__": "own"})
    try:
        assert check("behaviour", "zero") == ""
        path = collect(tmp_path, "Collection.mixture={'zero': 1.0}", "Collection.episodes=1")
    finally:
        behaviours.remove("zero")
    assert not arrays(path)["actions"].any()
    assert json.loads(notes(path)["policies"])[0]["about"] == "no action"
