"""Every behaviour and every recipe: sizes, shares, seeds, and what the set says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY
from hypothesis import given
from hypothesis import strategies as st
from made_collections import arrays, collect, notes

from dqlab.config import gin_files
from dqlab.errors import DqlabError
from dqlab.runs import train
from dqlab.tools.collect.behaviours import behaviours
from dqlab.tools.collect.episodes import Amount

sb3 = pytest.importorskip("stable_baselines3")
RECIPES = sorted(path for path in (ROOT / "gin" / "collect").glob("*.gin") if path.stem not in ("base", "ogbench"))
KINDS = [name for name in behaviours.names() if name != "oracle"]
"""Those that act anywhere; OGBench's oracle is tested with its environments (tests/data/test_ogbench.py)."""


def lean_left(observation: np.ndarray, generator: np.random.Generator) -> list[float]:
    """A policy as a plain function."""
    return [-0.5 + 0.1 * generator.standard_normal() + 0.01 * float(observation[0])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One collection's folder: what is trained there serves all tests."""
    return tmp_path_factory.mktemp("collection")


@pytest.fixture(scope="module")
def keys(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A mixture's name of each kind of behaviour."""
    import gymnasium

    other = tmp_path_factory.mktemp("policies")
    model = sb3.SAC("MlpPolicy", gymnasium.make("Pendulum-v1"), policy_kwargs={"net_arch": [8]}, seed=0)
    model.save(other / "policy.zip")
    collect(folder, "Collection.mixture={'random': 1.0}", "Collection.name='first'", "Collection.episodes=4")
    small = [binding for binding in TINY if not binding.startswith("load_dataset")]
    small += ["Training.steps=20", "load_dataset.standardise_states=True"]
    loaded = gin_files.load_gin([folder / "first.gin"], small)
    train(loaded, other / "run", quiet=True)
    return {
        "random": "random",
        "medium": "medium",
        "expert": "expert",
        "ppo": "ppo:128",
        "replay": "replay",
        "run": f"run:{other / 'run'}",
        "sb3": f"sb3:{other / 'policy.zip'}",
        "python": f"python:{__name__}:lean_left",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_behaviour_gives_its_rows_again(kind: str, keys: dict[str, str], folder: Path, tmp_path: Path) -> None:
    (folder / "behaviour").mkdir(exist_ok=True)
    (tmp_path / "behaviour").symlink_to(folder / "behaviour")
    mixture = f"Collection.mixture={{{keys[kind]!r}: 1.0}}"
    found = []
    for _ in range(2):
        path = collect(tmp_path, mixture, f"Collection.name='{kind}'", "Collection.transitions=120")
        found.append((arrays(path), notes(path)))
        for kept in (tmp_path / "episodes").rglob("*.npz"):
            kept.unlink()
    rows, said = found[1]
    assert all(np.array_equal(found[0][0][name], rows[name]) for name in rows)
    assert len(rows["rewards"]) == 120
    assert np.abs(rows["actions"]).max() <= 1.0
    ends = rows["terminals"] | rows["timeouts"]
    assert ends[-1], "what is cut says so"
    assert np.array_equal(rows["next_observations"][:-1][~ends[:-1]], rows["observations"][1:][~ends[:-1]])
    (known,) = json.loads(said["policies"])
    assert known["name"] == keys[kind]
    assert known["transitions"] == 120


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_gives_its_shares(recipe: Path, folder: Path) -> None:
    amount = ("Collection.transitions=200", "Collection.episodes=0", f"Collection.name='{recipe.stem}'")
    path = collect(folder, *amount, files=(str(recipe),))
    parts = json.loads(notes(path)["policies"])
    assert [known["transitions"] for known in parts] == [round(200 * known["share"]) for known in parts]
    assert len(arrays(path)["rewards"]) == 200


def test_medium_replay_is_all_that_was_experienced(folder: Path) -> None:
    recipe = ROOT / "gin" / "collect" / "medium-replay.gin"
    first = collect(folder, "Collection.name='all'", "Collection.mixture={'replay:full': 1.0}", files=(str(recipe),))
    rows = arrays(first)
    assert len(rows["rewards"]) == 256, "every step of PPO's"
    thin = collect(folder, "Collection.name='thin'", "Collection.mixture={'replay:full': 1.0}", "Collection.episodes=2")
    assert len(arrays(thin)["rewards"]) < 256
    with pytest.raises(DqlabError, match="fewer than are asked for"):
        collect(folder, "Collection.mixture={'replay': 1.0}", "Collection.transitions=1000")


def test_other_settings_of_ppo_are_another_training(folder: Path) -> None:
    for discount in (0.9, 0.95):
        setting = f"BehaviourTraining.discount={discount}"
        collect(folder, "Collection.mixture={'ppo': 1.0}", "Collection.episodes=1", setting)
    assert len({path.parent for path in (folder / "behaviour").rglob("step-*.zip")}) == 2


def test_another_seed_gives_other_rows(folder: Path) -> None:
    amount = ("Collection.mixture={'random': 1.0}", "Collection.episodes=1")
    sets = [collect(folder, *amount, f"Collection.name='{seed}'", f"Collection.seed={seed}") for seed in (0, 1)]
    assert not np.array_equal(*(arrays(path)["actions"] for path in sets))


@given(st.integers(1, 5000), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_shares_are_whole_numbers_that_add_up(count: int, weights: list[int]) -> None:
    shares = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    if count * min(shares.values()) < 1:
        return
    parts = Amount(transitions=count).split(shares)
    assert sum(part.transitions for part in parts.values()) == count
    assert all(abs(part.transitions - count * shares[name]) <= 1 for name, part in parts.items())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.data())
def test_thinning_takes_enough_and_spreads(lengths: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, sum(lengths)))
    episodes = [{"rewards": np.full(length, number)} for number, length in enumerate(lengths)]
    kept = Amount(transitions=wanted).spread_evenly(episodes, "it")
    chosen = [int(episode["rewards"][0]) for episode in kept]
    taken = sum(lengths[number] for number in chosen)
    assert chosen == sorted(set(chosen))
    assert wanted <= taken < wanted + max(lengths)
    for everything in (Amount(episodes=len(lengths)), Amount()):
        assert everything.spread_evenly(episodes, "it") == episodes
