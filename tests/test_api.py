"""The library: what functions return, that they leave the process as it was, and a policy in use."""

from __future__ import annotations

import ast
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusion_ql as plain
import gin
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, Run, bindings
from made_environments import write_odd

import dqlab as library
from dqlab.envs import make_env, tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.errors import ConfigError, DqlabError, RunError, in_python
from dqlab.runs.inspection import look_inside
from dqlab.training.evaluation import initial_seeds
from dqlab.training.execution.modes import Eager
from dqlab.training.programs import SamplerCore

TASK = "walker2d-medium-expert-v2"
SECONDS = {name: ast.literal_eval(value) for name, value in (binding.split("=", 1) for binding in TINY)}
"""`set` of a training run of seconds."""
STANDARDISED = {"load_dataset.standardise_states": True}
RNG = np.random.default_rng(0)


def train(out: Path, *, set: dict[str, Any] | None = None, **options: Any) -> library.Run:
    return library.train("quickstart", set=SECONDS | (set or {}), out=out, quiet=True, **{"steps": 40, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    return train(tmp_path_factory.mktemp("run") / "mine", seeds=[0, 1], set=STANDARDISED)


def weights(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("seed-*/checkpoints/*.safetensors"))}


def test_calls_do_not_disturb_each_other(tmp_path: Path, dqlab: Run) -> None:
    """Nor what their caller has set; the runs are bit for bit those of commands in processes of their own."""
    gin.parse_config("Training.steps = 7")
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    try:
        first = train(tmp_path / "first", steps=20, set={"Experiment.precision": "full"})
        policy = first.policy("last")
        before = policy.seed(3)(np.ones(17))
        library.evaluate(first)
        second = train(tmp_path / "second", steps=20, set={"Experiment.algorithm": "edp"}, seeds=[5])
        assert np.array_equal(policy.seed(3)(np.ones(17)), before)
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "high")
        assert gin.query_parameter("Training.steps") == 7
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
    for made, seed, more in ((first, "0", ()), (second, "5", ("Experiment.algorithm='edp'",))):
        alone = tmp_path / "alone" / made.path.name
        own = ["--gin", "quickstart.gin", "--steps", "20", "--seeds", seed]
        done = dqlab("train", *own, "-q", "--out", str(alone), *bindings(*more))
        assert done.returncode == 0, done.stderr
        assert weights(made.path) == weights(alone)


def test_what_a_run_says_of_itself(run: library.Run) -> None:
    summary, metrics = run.summary, run.metrics()
    assert run.state == "finished"
    assert set(summary["rule"]) == {"last", "offline", "best_online", "mean_last_10"}
    assert (set(summary["seed"]), summary.attrs["caveat"]) == ({0, 1}, "not D4RL")
    last = metrics[(metrics["metric"] == "score/mean") & (metrics["step"] == 40)]
    assert last["value"].tolist() == summary[summary["rule"] == "last"]["score_mean"].tolist()
    assert run.plot()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="has no 'loss'. It has actions, values, chain, eval/"):
        run.plot("loss")


def test_an_evaluation_repeats_the_recorded_one(run: library.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run and of its policies, which close the environments that they have made."""
    for checkpoint, rule in (("last", "last"), ("best", "best_online")):
        table = library.evaluate(run, checkpoint=checkpoint)
        expected = run.summary[run.summary["rule"] == rule].set_index("seed")["return_mean"]
        assert table.groupby("seed")["return"].mean().to_dict() == pytest.approx(expected.to_dict(), abs=1e-12)
        assert len(table) == 4
        of_policy = library.evaluate(run.policy(checkpoint, seed=1))
        assert of_policy["return"].tolist() == table[table["seed"] == 1]["return"].tolist()
    closed, close = [], GymnasiumEnvironments.close

    def note_and_close(self: GymnasiumEnvironments) -> None:
        closed.append(len(self.envs))
        close(self)

    monkeypatch.setattr(GymnasiumEnvironments, "close", note_and_close)
    assert len(library.evaluate(run.path, episodes=2, seed=0)) == 2
    run.policy("last", seed=1).evaluate(1)
    look_inside(run.policy("last", seed=0))
    assert closed == [2, 1, 3]


def test_a_policy_acts_as_the_evaluator_does(run: library.Run) -> None:
    """The same noise: the same returns in environments that it drives."""
    policy = run.policy("last", seed=1)
    stream = SamplerCore(policy.pack, 2, Eager()).noise_stream("evaluation 40")
    envs = [make_env(tasks.get(TASK)) for _ in range(2)]
    states = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, initial_seeds(1, 40, 2), strict=True)])
    returns, live, time = [0.0, 0.0], [0, 1], 0
    while live:
        actions = policy(states, {name: value[0, 0] for name, value in stream.at(time).items()})
        for episode in list(live):
            states[episode], reward, terminated, truncated, _ = envs[episode].step(actions[episode].astype(float))
            returns[episode] += reward
            if terminated or truncated:
                live.remove(episode)
        time += 1
    assert returns == library.evaluate(policy)["return"].tolist()


@pytest.mark.parametrize("count", [1, 64])
def test_any_number_of_states_of_numpy_and_torch(run: library.Run, count: int) -> None:
    policy = run.policy(seed=0)
    states = RNG.normal(size=(count, 17)).astype(np.float32)
    actions = policy.seed(0)(states)
    assert (actions.shape, type(actions)) == ((count, 6), np.ndarray)
    assert np.abs(actions).max() <= 1
    again = policy.seed(0)(torch.from_numpy(states))
    assert torch.equal(again, torch.from_numpy(actions))
    assert not torch.equal(policy(torch.from_numpy(states)), again)
    values = policy.q(states, actions)
    assert values.shape == (count,)
    assert policy.q(states[0], actions[0]) == pytest.approx(values[0], abs=1e-5)
    assert policy(states[0]).shape == (6,)
    assert np.array_equal(policy(states, policy.seed(0).draw(count)), actions)
    assert (policy(states[:0]).shape, policy.q(states[:0], actions[:0]).shape) == ((0, 6), (0,))
    shapes = r"the shape \(17, 1\): walker2d-medium-expert-v2 wants \(17,\) or \(B, 17\)"
    for wrong, said in (
        (np.where(states > 1, np.nan, states), "The states hold a NaN or infinite number"),
        ("x", "The states are no numbers: could not convert string to float: 'x'"),
        (states[0][:, None], shapes),
    ):
        with pytest.raises(ConfigError, match=said):
            policy(wrong)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="A policy's seed is an integer >= 0"):
        policy.seed(-1)


def test_actions_and_values_are_in_the_environments_units(tmp_path: Path) -> None:
    """Bounds (-2, 2), and 0.5 alone; the task that a gin file makes is gone at the end."""
    write_odd(tmp_path)
    made = library.train(tmp_path / "odd.gin", out=tmp_path / "run", quiet=True)
    assert made.facts["task"] not in tasks
    policy = made.policy("last")
    states = RNG.normal(size=(50, 3))
    actions = policy(states)
    assert 1 < np.abs(actions[:, 0]).max() <= 2
    assert set(actions[:, 1]) == {0.5}
    unit = np.stack([actions[:, 0] / 2, np.zeros(50)], axis=1)
    critic = policy.pack.layouts["critic"].bind(policy.pack.state.targets["critic_target"][0])
    expected = critic(torch.from_numpy(states).float(), torch.from_numpy(unit).float()).amin(dim=0)
    np.testing.assert_allclose(policy.q(states, actions), expected.numpy(), atol=1e-5)
    table = library.evaluate(policy, env="Odd-v0", episodes=2)
    assert (table["length"].tolist(), "score" in table) == ([5, 5], False)
    for again in (policy, made):
        pd.testing.assert_frame_equal(library.evaluate(again, env="Odd-v0", episodes=2), table)
    for env, said in (
        ("Od-v0", "Cannot make the environment 'Od-v0'"),
        ("Pendulum-v1", "of width 1; its task says 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            library.evaluate(policy, env=env)
    with pytest.raises(RunError, match="has no seed 9"):
        library.evaluate(made, env="Odd-v0", seed=9)


def test_policies_by_file_by_replica_and_of_the_official_code(run: library.Run, tmp_path: Path) -> None:
    state = np.ones(17)
    expected = run.policy("last", seed=1).seed(0)(state)
    file = run.path / "seed-1" / "checkpoints" / "step-000000040.safetensors"
    with pytest.raises(RunError, match="has the weights of seed 1, not of seed 0"):
        library.load_policy(file, seed=0)
    for load in (lambda: library.load_policy(run), run.policy):
        with pytest.raises(RunError, match="has 2 replicas: name a `seed`"):
            load()
    for source in (file, run.path / "seed-1"):
        assert np.array_equal(library.load_policy(source, "last").seed(0)(state), expected)
    actor, critic = plain.Actor(17, 6, plain.Settings(hidden=16)), plain.Critic(17, 6, 16)
    torch.save(actor.state_dict(), tmp_path / "actor_5.pth")
    torch.save(critic.state_dict(), tmp_path / "critic_5.pth")
    told = {"DiffusionPolicy.n_timesteps": 5, "DiffusionPolicy.schedule": "vp"}
    policy = library.load_policy(tmp_path, task=TASK, set=told)
    action = policy(state)
    value = torch.minimum(*critic(torch.ones(1, 17), torch.from_numpy(action)[None])).item()
    assert policy.q(state, action) == pytest.approx(value, abs=1e-5)


def with_set(set: Any) -> Callable[[], object]:
    return lambda: library.train("quickstart", set=set)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: library.train("quickstrat"), "There is no gin file 'quickstrat'. Did you mean"),
        (with_set({"DiffusionQL.eta": -1.0}), "`set` DiffusionQL.eta must be"),
        (with_set({"DiffusionQL.eta": print}), "DiffusionQL.eta is <built-in"),
        (with_set(["a=1"]), "`set` is a dictionary"),
        (with_set({"Experiment.action_chunk": 1001}), "action_chunk must be at most 1,000"),
        (with_set({"eta": 1}), "`set` eta has no effect"),
        (lambda: library.evaluate("pretrained:walker2d-mini", episodes="a"), "needs at least 1 episode, not 'a'"),  # type: ignore[arg-type]
        (lambda: library.list_runs("nowhere"), "There is no folder 'nowhere'"),
        (lambda: library.load_policy("nowhere"), "is not the folder of a dqlab run"),
        (lambda: library.compare(["nowhere"]), "There is no folder 'nowhere'"),
        (lambda: library.Ablation("nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_exceptions_of_one_line(call: Callable[[], object], said: str) -> None:
    with pytest.raises(DqlabError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_gin_cannot_make_is_an_exception_of_one_line_and_other_errors_are_as_they_were(tmp_path: Path) -> None:
    for value, said in (
        ("[%a]", "Something is made of itself"),
        ("(@vp(),)", "'n_timesteps'. Bind it in gin, or leave"),
    ):
        (tmp_path / "odd.gin").write_text(f"a = {value}\nExperiment.task = %a\n")
        with pytest.raises(ConfigError, match=f"^.*{said}[^\n]*$"):
            library.train(tmp_path / "odd.gin")

    def calls_itself() -> None:
        calls_itself()

    with pytest.raises(RecursionError):
        in_python(calls_itself)()


def test_an_interrupted_run_goes_on(tmp_path: Path, run: library.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's stop button, in the first evaluation."""
    reset, before = GymnasiumEnvironments.reset, signal.getsignal(signal.SIGINT)

    def press_stop(self: GymnasiumEnvironments, *args: Any) -> Any:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        return reset(self, *args)

    monkeypatch.setattr(GymnasiumEnvironments, "reset", press_stop)
    with pytest.raises(KeyboardInterrupt, match=r"resume\(\) continues"):
        train(tmp_path / "stopped", seeds=[0, 1], set=STANDARDISED)
    stopped = library.Run(tmp_path / "stopped")
    assert (stopped.state, signal.getsignal(signal.SIGINT)) == ("interrupted", before)
    assert weights(stopped.resume(quiet=True).path) == weights(run.path)
    with pytest.raises(RunError, match="there is nothing to resume"):
        stopped.resume()


def test_a_grid_its_table_and_what_is_compared_and_listed(tmp_path: Path, run: library.Run) -> None:
    (tmp_path / "two.gin").write_text("Grid.axes = {'eta': {'DiffusionQL.eta': (0.5, 1.0)}}\nGrid.base = 'eta=1.0'\n")
    own = {"set": {**SECONDS, "Report.reps": 100}, "seeds": [0], "steps": 20}
    grid = library.ablate(tmp_path / "two.gin", "quickstart", out=tmp_path / "g", quiet=True, **own)  # type: ignore[arg-type]
    assert grid.report.read_text().startswith("<!DOCTYPE html>")
    assert set(grid.table()["label"]) == {"eta=0.5", "eta=1.0"}
    assert set(grid.scores()["state"]) == {"finished"}
    assert grid.plot("best").axes[0].get_xlabel().startswith("interquartile mean score")
    with pytest.warns(UserWarning, match="fewer than 5 seeds"):
        compared = library.compare([run, grid], rules=["last"])
    row = compared[(compared["group"] == "A") & (compared["rule"] == "last")].iloc[0]
    assert row["mean"] == pytest.approx(run.summary[run.summary["rule"] == "last"]["score_mean"].mean())
    assert set(compared.attrs["different"]) == {"A", "B", "C"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listed = library.list_runs(tmp_path)
    assert (sorted(listed["cell"]), set(listed["state"])) == (["eta=0.5", "eta=1.0"], {"finished"})


def test_a_compiled_policy_acts_as_it_does_otherwise(tmp_path: Path) -> None:
    """For one state and several, with standardised states and actions in other units.

    So does another policy, which finds in the cache what was compiled for the first one.
    """
    small = {"MLPDenoiser.depth": 1, "MLPDenoiser.activation": "relu", "TwinCritic.depth": 1, **STANDARDISED}
    odd = library.train(write_odd(tmp_path), set=small, seeds=[0, 1], out=tmp_path / "run", quiet=True)
    for seed, counts in ((0, (1, 7)), (1, (7,))):
        policy, compiled = (library.load_policy(odd.path, "last", seed=seed, compiled=way) for way in (False, True))
        for count in counts:
            states = RNG.normal(size=(count, 3)).astype(np.float32)
            noise = policy.draw(count)
            np.testing.assert_allclose(compiled(states, noise), policy(states, noise), atol=2e-5)
    assert np.array_equal(compiled.seed(1)(states[0]), compiled.seed(1)(states[0]))
    assert compiled(torch.from_numpy(states)).shape == (7, 2)
