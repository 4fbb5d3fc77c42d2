"""The 2D bandit: the data's moments and provenance, the environment's reward law."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dqlab.config import gin_files
from dqlab.data import Transitions, load_dataset
from dqlab.data.formats.base import digest_of_columns
from dqlab.data.sources import make_rows
from dqlab.envs import make_env, tasks
from dqlab.envs.bandit import BANDIT, BEST, MODES, GaussianMode, modes_of
from dqlab.errors import ConfigError, DataError
from dqlab.runs import Experiment
from dqlab.runs.build import build_pack
from dqlab.training import Evaluator
from dqlab.training.model_selection import EvaluationEpisodes


def load(*bindings: str) -> Transitions:
    gin_files.load_gin([], ["load_dataset.sources=('bandit',)", *bindings])
    return load_dataset(tasks.get("bandit-2d"))


def test_ten_thousand_terminal_transitions_of_four_equal_modes() -> None:
    """Means within 5 standard errors (0.05 / 50 and 0.5 / 50), standard deviations within 5%."""
    data = load()
    assert data.state.shape == (10_000, 1)
    assert data.action.shape == (10_000, 2)
    assert not data.state.any()
    assert not data.next_state.any()
    assert bool((data.terminal == 1).all())
    modes = modes_of(data.action.numpy())
    assert np.bincount(modes + 1, minlength=5).tolist() == [0, 2500, 2500, 2500, 2500]
    wanted = {(-0.8, 0.8): 3.0, (-0.8, -0.8): 0.0, (0.8, 0.8): 1.5, (0.8, -0.8): 5.0}
    for index, mode in enumerate(MODES):
        actions, rewards = data.action[modes == index], data.reward[modes == index]
        assert actions.mean(0).tolist() == pytest.approx(mode.centre, abs=0.005)
        assert actions.std(0).tolist() == pytest.approx([0.05, 0.05], rel=0.05)
        assert float(rewards.mean()) == pytest.approx(wanted[mode.centre], abs=0.05)
        assert float(rewards.std()) == pytest.approx(0.5, rel=0.05)
    known = data.provenance
    assert (known.source, known.path, known.skipped, known.is_d4rl) == ("bandit", "", (), False)
    assert (known.episodes, known.transitions, known.caveat) == (10_000, 10_000, "synthetic")
    assert known.return_mean == pytest.approx(2.375, abs=0.1)  # the four modes' mean


def test_actions_are_clipped() -> None:
    """One in 30,000 draws lies beyond 1, four standard deviations from its mode."""
    actions = make_rows(0, 400_000).actions
    assert float(np.abs(actions).max()) == 1.0
    assert 5 <= int((np.abs(actions) == 1.0).sum()) <= 100


def test_the_seed_makes_the_data_and_its_digest() -> None:
    first, again, other = load(), load(), load("bandit.seed=1")
    assert first.action.equal(again.action)
    assert first.reward.equal(again.reward)
    assert not first.action.equal(other.action)
    digests = [data.provenance.digest for data in (first, again, other, load("bandit.transitions=400"))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert len(digests[0]) == 64


def test_the_digest_sees_every_array() -> None:
    digests = set()
    for name in ("observations", "actions", "rewards", "terminals", "timeouts", None):
        rows = make_rows(0, 8)
        if name:
            getattr(rows, name)[2] = 1 - getattr(rows, name)[2]
        digests.add(digest_of_columns(rows))
    assert len(digests) == 6


@pytest.mark.parametrize("count", [0, -4, 10_001])
def test_modes_are_equal_or_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=r"bandit.transitions must be a positive multiple of 4, not"):
        load(f"bandit.transitions={count}")


def test_whose_data_it_makes() -> None:
    with pytest.raises(DataError, match=r"No dataset for hopper-medium-v2. bandit: it makes data for bandit-2d only"):
        load_dataset(tasks.get("hopper-medium-v2"), ("bandit",))
    with pytest.raises(DataError, match=r"d4rl_cache: .*d4rl_download: bandit-2d is not a task of D4RL's. Name a file"):
        load_dataset(BANDIT, ("d4rl_cache", "d4rl_download"))


def test_gymnasium_finds_no_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(BANDIT.env_id).unwrapped)


def rewards(action: list[float], count: int = 400) -> np.ndarray:
    env, got = make_env(BANDIT), []
    for index in range(count):
        state, _ = env.reset(seed=0 if index == 0 else None)
        assert state.tolist() == [0.0]
        state, reward, terminated, _, _ = env.step(np.array(action, dtype=np.float32))
        assert terminated
        assert state.tolist() == [0.0]
        got.append(reward)
    return np.array(got)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_mode_pays_what_its_data_pay(mode: GaussianMode) -> None:
    got = rewards(list(mode.centre))
    assert float(got.mean()) == pytest.approx(mode.reward, abs=0.1)  # 4 standard errors
    assert float(got.std()) == pytest.approx(0.5, rel=0.15)


def test_what_actions_are_worth() -> None:
    """A mode reaches a quarter far; elsewhere nothing is paid; rewards repeat from a seed."""
    assert modes_of(np.array([[0.8, -0.56], [0.8, -0.54], [0.57, 0.72], [-0.8, -0.8]])).tolist() == [3, -1, 2, 1]
    assert MODES[BEST].name == "lower right"
    for action in ([0.0, 0.0], [0.8, -0.54], [1.0, -1.0], [-1.0, 0.5]):
        assert not rewards(action, 3).any()
    assert np.array_equal(rewards([0.8, 0.8], 5), rewards([0.8, 0.8], 5))
    assert [BANDIT.score(value) for value in (0.0, 2.5, 5.0)] == [0.0, 50.0, 100.0]


def test_evaluation_rolls_it_out() -> None:
    gin_files.load_gin(["gin/bandit/base.gin"])
    experiment = Experiment()
    result: EvaluationEpisodes = Evaluator(BANDIT, experiment.physics, 6).run(build_pack(experiment), 0)[0]
    assert result.lengths.tolist() == [1] * 6
