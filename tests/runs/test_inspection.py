"""What is seen inside of policies: actions, values beside returns, chains; what is kept of it, and drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_packs import small_run

import dqlab
from dqlab.algorithms import ActorCritic, algorithms
from dqlab.data import load_dataset
from dqlab.data.rewards import reward_transforms
from dqlab.envs import tasks
from dqlab.envs.physics import physics_laws
from dqlab.errors import ConfigError, DataError, RunError
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.inspection import discounted_returns, reward_line, spaced

TASK = "walker2d-medium-expert-v2"


def test_discounted_returns_and_spaced_numbers_by_hand() -> None:
    assert discounted_returns(np.array([1.0, 2.0, 3.0]), 0.5).tolist() == [2.75, 3.5, 3.0]
    assert [spaced(count, 11).tolist() for count in (3, 0)] == [[0, 1, 2], []]


def test_returns_are_those_of_evaluated_episodes(tmp_path: Path) -> None:
    """Without discount the first return is what an evaluation of as many episodes says, in training's units."""
    more = ["DiffusionQL.discount = 1.0", "load_dataset.reward_transform = 'cql_antmaze'"]
    run = small_run(tmp_path, *more, "load_dataset.standardise_states = True")
    seen = run.inspect()["seed 0"]
    first = dqlab.evaluate(run, episodes=3).iloc[0]
    assert first["length"] < 1000  # it fell: nothing of its return is missing
    assert seen["returns"][0] == pytest.approx(4 * first["return"] - 2 * first["length"], abs=2e-3)
    rows = load_dataset(tasks.get(TASK), ("embedded",)).action.double().numpy().round(3)
    assert {tuple(row) for row in seen["data_actions"]} <= {tuple(row) for row in rows.tolist()}


def looks_like(name: str) -> tuple[object, ...]:
    """All that decides what there is to see of an algorithm."""
    algorithm = algorithms.get(name)()
    return isinstance(algorithm, ActorCritic), getattr(algorithm, "policy", ""), getattr(algorithm, "critic", "")


DRAWN = {"bc": ["chain"], "iql": ["actions", "values"]}
"""Views are drawn alike, whoever is seen."""
SEEN = {looks_like(name): name for name in (*sorted(algorithms.names()), *DRAWN)}


@pytest.mark.parametrize("name", SEEN.values())
def test_every_algorithm_shows_what_it_has(tmp_path: Path, name: str) -> None:
    """Of those that look alike one."""
    run, algorithm = small_run(tmp_path, f"Experiment.algorithm = '{name}'"), algorithms.get(name)()
    seen = run.inspect()["seed 0"]
    assert np.shape(seen["policy_actions"]) == np.shape(seen["data_actions"]) == (256, 6)
    assert np.abs(seen["policy_actions"]).max() <= 1.0
    assert bool(seen["values"]) == isinstance(algorithm, ActorCritic)
    assert len(seen["values"]) == len(seen["returns"])
    has_chain = isinstance(getattr(algorithm, "resolved_policy", None), DiffusionPolicy)
    assert bool(seen["chain"]) == has_chain == bool(seen["chain_steps"])
    for view in DRAWN.get(name, []):
        assert run.plot(view)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    for view in [*(["values"] if not seen["values"] else []), *(["chain"] if not has_chain else [])]:
        with pytest.raises(RunError, match="no values|no chain"):
            run.plot(view)
    if not has_chain:
        with pytest.raises(ConfigError, match="has no diffusion policy"):
            run.policy("last").denoising_chain(np.zeros((5, 17)))


def test_a_chain_begins_with_noise_and_ends_with_actions(tmp_path: Path) -> None:
    run = small_run(tmp_path, "DiffusionPolicy.n_timesteps = 20", "Experiment.algorithm = 'bc'")
    seen = run.inspect()["seed 0"]
    chain = np.array(seen["chain"])
    assert seen["chain_steps"] == list(range(0, 21, 2))
    assert chain.shape == (11, 200, 6)
    assert (chain[0].mean(), chain[0].std()) == pytest.approx((0.0, 1.0), abs=0.1)
    assert np.abs(chain[-1]).max() <= 1.0 < np.abs(chain[0]).max()
    policy, states = run.policy("last"), np.zeros((5, 17))
    one = policy.seed(3).denoising_chain(states)
    assert one.shape == (21, 5, 6), "20 steps, and what they lead to"
    np.testing.assert_array_equal(one[0], policy.seed(3).draw(5)["start"].numpy())
    np.testing.assert_allclose(one[-1], policy.seed(3)(states), atol=1e-6)


def test_what_was_seen_is_kept_while_the_weights_are_the_last(tmp_path: Path) -> None:
    """Rewards that lie on no line have no values to compare."""

    @reward_transforms.register("squared")
    def squared(reward: np.ndarray, returns: np.ndarray) -> np.ndarray:
        """r * r."""
        return np.asarray(reward * reward, np.float32)

    try:
        run = small_run(tmp_path, "load_dataset.reward_transform = 'squared'")
        first, kept = run.inspect(), run.path / "seed-0" / "inspection.json"
        assert (first["seed 0"]["values"], first["seed 0"]["returns"]) == ([], [])
        written = kept.stat().st_mtime_ns
        assert run.inspect() == first
        assert kept.stat().st_mtime_ns == written
        assert run.inspect("best")["seed 0"]["step"] == 4
        weights = run.path / "seed-0" / "checkpoints" / "step-000000004.safetensors"
        weights.rename(weights.with_name("step-000000008.safetensors"))
        run.inspect()
        assert kept.stat().st_mtime_ns > written
        kept.write_text("{}")
        with pytest.raises(RunError, match=r"inspection.json is damaged .* Delete it: it is made anew"):
            run.inspect()
        policy = run.policy("last")
        with policy.ready():
            assert reward_line(load_dataset(policy.task, reward_transform="standardise"), policy) is not None
    finally:
        reward_transforms.remove("squared")


def test_policies_are_shown_beside_the_data_that_they_were_trained_on(tmp_path: Path) -> None:
    """Not beside others that the same sources have by now."""
    run = small_run(tmp_path, "load_dataset.sources = ('embedded',)")
    facts = json.loads((run.path / "run.json").read_text())
    facts["data"]["digest"] = "0123456789abcdef" * 4
    (run.path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(
        DataError, match=r"trained on data with SHA-256 0123456789ab; embedded .*\.hdf5 has others here"
    ):
        run.inspect()


def test_a_gpus_run_acts_wherever_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what there is in place of its device, products or graphs; what is asked for by name is still refused."""
    run = small_run(tmp_path, "BehaviourCloning.policy = 'gaussian'", "Experiment.algorithm = 'bc'")
    wanted = dqlab.evaluate(run, episodes=1)
    for path in (run.path / "config.gin", run.path / "seed-0" / "config.gin"):
        text = re.sub(r"Training.execution = .*", "Training.execution = 'cuda_graph'", path.read_text())
        text = re.sub(r"Experiment.device = .*", "Experiment.device = 'cuda:7'", text)
        path.write_text(re.sub(r"Experiment.precision = .*", "Experiment.precision = 'tf32'", text))
    for configured in ("auto", "cuda_graph"):
        facts = {**json.loads((run.path / "run.json").read_text()), "execution": "cuda_graph"}
        (run.path / "run.json").write_text(json.dumps({**facts, "execution_configured": configured}))
        pd.testing.assert_frame_equal(dqlab.evaluate(run, episodes=1), wanted)
    with pytest.raises(ConfigError, match="'cuda_graph' needs a CUDA device"):
        dqlab.load_policy(run, set={"Training.execution": "cuda_graph"})
    with pytest.raises(ConfigError, match="no CUDA device|up to"):
        dqlab.load_policy(run, device="cuda:7")
    with pytest.raises(ConfigError, match="no CUDA device|up to"):
        dqlab.load_policy(run, set={"experiment.Experiment.device": "cuda:7"})
    with pytest.raises(ConfigError, match="'tf32' needs a CUDA device"):
        dqlab.load_policy(run, device="cpu", set={"Experiment.precision": "tf32"})
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("CXX", "")
    assert dqlab.load_policy("pretrained:walker2d-mini")(np.zeros(17)).shape == (6,)


def test_a_policys_parts_are_of_its_own_configuration_whenever_they_are_asked_for(tmp_path: Path) -> None:
    run = small_run(tmp_path, "SoftmaxQ.n_candidates = 3")
    policy = dqlab.load_policy(run)
    assert policy.pack.algorithm.resolved_selection.n_candidates == 3
    with pytest.raises(ConfigError, match="TD3BC.alpha has no effect: nothing here reads it"):
        dqlab.load_policy(run, set={"TD3BC.alpha": 2.0})
    dqlab.load_policy(run, set={"load_dataset.sources": ("embedded",), "Training.eval_episodes": 3})

    @physics_laws.register("scaled", source="made up")
    def scaled(model: Any, about: Any = None, factor: float = 1.0) -> None:
        """Heavier, or lighter."""
        model.body_mass *= factor

    try:
        law = {"Experiment.physics": "scaled", "scaled.factor": 2.0}  # read where environments are made
        assert dqlab.load_policy(run, set=law).experiment.physics == "scaled"
    finally:
        physics_laws.remove("scaled")
    inertias = []
    for physics in ("modern", "mujoco210"):
        env = dqlab.load_policy(run, set={"Experiment.physics": physics}).make_env()
        inertias.append(env.unwrapped.model.body_inertia.sum())
        env.close()
    assert inertias[0] != inertias[1], "it is stepped by the run's own physics"
