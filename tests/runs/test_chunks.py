"""Runs whose actions are chunks: what is played, through every door, and that a run is what it is alone and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, Run
from made_collections import arrays
from made_environments import write_odd
from made_packs import records
from made_updates import largest_difference

import dqlab as library
from dqlab.analysis.report.inspection import actions_figure
from dqlab.errors import ConfigError, EnvError
from dqlab.runs.export import export_policy, run_onnx

CHUNK, LIMIT = 3, 5


def train(folder: Path, algorithm: str, *more: str, seeds: tuple[int, ...] = (0, 1), name: str = "run") -> library.Run:
    """Forty updates on the made environment, whose actions are two numbers and whose episodes have five steps."""
    own = [f"Experiment.action_chunk = {CHUNK}", *SMALL, f"Experiment.algorithm = '{algorithm}'"]
    gin = write_odd(folder, *own, *more)
    return library.train(gin, seeds=list(seeds), out=folder / name, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    return train(tmp_path_factory.mktemp("chunks"), "td3_bc", "load_dataset.standardise_states = True")


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps the states of an environment and the actions that it gets, episode by episode."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.episodes: list[tuple[list[Any], list[Any]]] = []

    def reset(self, **given: Any) -> Any:
        state, info = super().reset(**given)
        self.episodes.append(([state], []))
        return state, info

    def step(self, action: Any) -> Any:
        stepped = super().step(action)
        self.episodes[-1][0].append(stepped[0])
        self.episodes[-1][1].append(np.array(action))
        return stepped


def test_a_chunk_is_played_whole_and_cut_where_the_episode_ends(run: library.Run) -> None:
    """The policy is asked in steps 0 and 3; of the second chunk two actions are played."""
    policy = run.policy("last", seed=1)
    recorder = Recorder(gymnasium.make("odd:Odd-v0"))
    theirs = policy.evaluate(2, recorder)
    assert len(recorder.episodes) == 2
    for states, actions in recorder.episodes:
        first, second = (np.split(policy(states[at]), CHUNK) for at in (0, CHUNK))
        np.testing.assert_allclose(actions, [*first, *second[: LIMIT - CHUNK]], atol=1e-5)
        assert len({float(action[0]) for action in actions}) == LIMIT, "they are all different"
    played = [sum(float(action[0]) for action in actions) for _, actions in recorder.episodes]
    ours = policy.evaluate()
    np.testing.assert_allclose([theirs.returns, ours.returns], [played, played], rtol=1e-5)
    assert ours.lengths.tolist() == [LIMIT, LIMIT]
    with pytest.raises(ConfigError, match=r"actions lie in .*, those of the environment in \[-0.1, 0.1\]"):
        policy.evaluate(1, gymnasium.wrappers.RescaleAction(gymnasium.make("odd:Odd-v0"), -0.1, 0.1))


def test_what_is_shown_of_a_run_names_its_chunks(run: library.Run, in_process: Run) -> None:
    for command, said in (
        (("eval", str(run.path), "--episodes", "1"), "chunks of 3 actions"),
        (("runs", "show", str(run.path)), "action chunk 3"),
    ):
        done = in_process(*command)
        assert said in " ".join(done.stdout.split()), done.stdout
    done = in_process("eval", str(run.path), "--set", "Experiment.action_chunk=1")
    assert "This was set over the run's configuration: Experiment.action_chunk=1" in done.stderr


def test_a_policy_gives_all_actions_of_a_chunk(run: library.Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    policy, states = run.policy("last", seed=1), np.ones((4, 3))
    assert policy(np.ones(3)).shape == (CHUNK * 2,)
    actions = policy(states)
    assert actions.shape == (4, CHUNK * 2)
    assert np.abs(actions[:, 1::2]).max() == 0.5, "the environment's bounds, in every step of a chunk"
    assert policy.q(states, actions).shape == (4,)
    with pytest.raises(ConfigError, match="actions"):
        policy.q(states, actions[:, :2])
    export_policy(run.path, tmp_path / "out", checkpoint="last", seed=1)
    found = run_onnx(str(tmp_path / "out" / "policy.onnx"), torch.ones(4, 3), {})
    for other in (found, library.load_policy(tmp_path / "out")(states)):
        np.testing.assert_allclose(other, actions, atol=1e-5)
    assert "Actions are 3 in a row" in (tmp_path / "out" / "README.md").read_text()
    seen = run.inspect()["seed 1"]
    assert np.shape(seen["policy_actions"])[1] == np.shape(seen["data_actions"])[1] == CHUNK * 2
    one: Any = {**seen, **{name: np.array(seen[name])[:, :2] for name in ("policy_actions", "data_actions")}}
    for both in ({"3": seen, "1": one}, {"1": one, "3": seen}):  # settings of one report: their first actions
        panels = [axes for axes in actions_figure(both).axes if axes.get_title()]
        assert [axes.get_title() for axes in panels] == ["action 1", "action 2"]


def test_a_run_of_chunks_is_what_it_is_alone_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed trained beside another, by itself, and in two parts: the evaluation between them had ended the first."""
    packed = train(tmp_path, "best_of_n", name="packed")
    alone = train(tmp_path, "best_of_n", seeds=(1,), name="alone")
    monkeypatch.setenv("ODD", "error")
    with pytest.raises(EnvError, match="after 20 updates"):
        train(tmp_path, "best_of_n", seeds=(1,), name="parted")
    monkeypatch.delenv("ODD")
    parted = library.Run(tmp_path / "parted").resume(quiet=True)
    assert records(alone.path, "seed-1") == records(parted.path, "seed-1")
    weights = [run.policy("last", seed=1).pack.weights(0) for run in (alone, parted, packed)]
    assert largest_difference(weights[1], weights[0]) == 0
    assert largest_difference(weights[2], weights[0]) <= 1e-5


def test_by_the_commands(run: library.Run, tmp_path: Path, in_process: Run) -> None:
    """Evaluate, and collect with a run of chunks as behaviour: it plays its chunks there, too."""
    sets = ["Collection.task=''", "Collection.env_id='odd:Odd-v0'", "Collection.episodes=2", "Collection.transitions=0"]
    sets += [f"Collection.mixture={{'run:{run.path}/seed-1': 1.0}}", "Collection.reference_scores=(0.0, 1.0)"]
    collect = ("collect", "--gin", str(ROOT / "gin" / "collect" / "random.gin"), "--out", "collected", "--set", *sets)
    for command in (("eval", str(run.path), "--checkpoint", "last", "--episodes", "2"), collect):
        done = in_process(*command)
        assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "collected").rglob("*.hdf5")
    rows, policy = arrays(path), run.policy("last", seed=1)
    states, actions = (rows[name].reshape(2, LIMIT, -1) for name in ("observations", "actions"))
    for step in range(LIMIT):
        chosen = np.split(policy(states[:, step - step % CHUNK]), CHUNK, axis=1)[step % CHUNK]
        np.testing.assert_allclose(actions[:, step, 0], chosen[:, 0] / 2, atol=1e-5)  # in shares of [-2, 2]
