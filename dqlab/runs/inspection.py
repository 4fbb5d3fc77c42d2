"""A look inside a trained policy: its actions beside the data's, its values beside returns, its denoising chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from dqlab.algorithms import ActorCritic
from dqlab.data import Transitions
from dqlab.envs.backend import StepResult
from dqlab.envs.physics import Array
from dqlab.envs.tasks import from_unit, to_unit
from dqlab.errors import DataError
from dqlab.files import write_text
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs.experiment import build_evaluator, load_data
from dqlab.runs.load_policy import load_policy
from dqlab.runs.policy import LoadedPolicy
from dqlab.tracking.records import InspectionRecord, read_record
from dqlab.tracking.run_folder import INSPECTION
from dqlab.training.execution.modes import Eager

STATES, EPISODES, PAIRS = 256, 3, 150  # states of the data that are acted in; episodes played; values kept of them
CHAINS, POINTS = 200, 11  # actions denoised in one state; points of their chains kept
NEGLIGIBLE = 0.05
"""A value is compared with a return while what came after the episode's cut weighs no more than this in it."""


def inspect_replica(folder: Path, checkpoint: str = "last") -> InspectionRecord:
    """What is inside a replica's policy, by its folder and a checkpoint of `load_policy`; that of the last is kept."""
    if checkpoint != "last":
        return look_inside(load_policy(folder, checkpoint))
    kept = folder / INSPECTION
    newest = max((file.stem for file in (folder / "checkpoints").glob("step-*.safetensors")), default="")
    if kept.exists() and newest:
        known = read_record(kept, InspectionRecord)
        if newest == f"step-{known['step']:09d}":
            return known
    found = look_inside(load_policy(folder, "last"))
    write_text(kept, json.dumps(found))
    return found


def look_inside(policy: LoadedPolicy) -> InspectionRecord:
    """Look inside a policy.

    Actions are compared in `STATES` states of the data. Values are the critics', as they rank candidates, along
    `EPISODES` episodes; beside them stand the discounted sums of the rewards that followed, in training's units (both
    are empty without critics, or where the reward transform is no straight line). The chain denoises `CHAINS` draws of
    noise in the first of the states. Raises DataError: the data are not to be had, or others than it was trained on.
    RunError: episodes gave no score.
    """
    with policy.ready():
        data, trained = load_data(policy.experiment), policy.source.facts.get("data", {}).get("digest")
        if trained and data.provenance.digest != trained:
            here = f"{data.provenance.source} {data.provenance.path} has others here, {data.provenance.digest[:12]}"
            said = f"The policy was trained on data with SHA-256 {trained[:12]}; {here}"
            raise DataError(f"{said}. Bring the first back to where load_dataset.sources says.")
        rows = np.random.default_rng(0).permutation(len(data))[:STATES]  # the same for all policies
        states = data.state[rows].double().cpu().numpy()
        if len(policy.state_mean):
            states = states * policy.state_std.numpy() + policy.state_mean.numpy()
        actions = to_unit(policy(states), policy.action_low, policy.action_high)
        values, returns = _values_and_returns(policy, data)
        has_chain = isinstance(getattr(policy.pack.algorithm, "resolved_policy", None), DiffusionPolicy)
        chain = policy.denoising_chain(np.repeat(states[:1], CHAINS, axis=0)) if has_chain else np.zeros(0)
        kept = spaced(len(chain), POINTS)
        return {
            "replica": policy.replica.name,
            "step": policy.source.step,
            "task": policy.task.name,
            "algorithm": policy.experiment.algorithm,
            "data_actions": _rounded(data.action[rows].double().cpu().numpy()),
            "policy_actions": _rounded(actions),
            "values": _rounded(values),
            "returns": _rounded(returns),
            "chain": _rounded(chain[kept]),
            "chain_steps": kept.tolist(),
        }


def _rounded(values: NDArray[Any]) -> list[Any]:
    """Numbers that are drawn only, as short as they may be."""
    return np.asarray(values, np.float64).round(3).tolist()  # type: ignore[no-any-return]


def _values_and_returns(policy: LoadedPolicy, data: Transitions) -> Array:
    """The critics' values along episodes, and the discounted returns that followed, (2, n).

    None without critics, and where an evaluation's reward is success, of which training's is no function.
    """
    algorithm = policy.experiment.algorithm_of(policy.replica)
    if (
        policy.task.measures_success
        or not isinstance(algorithm, ActorCritic)
        or (line := reward_line(data, policy)) is None
    ):
        return np.zeros((2, 0))
    pairs, chunk = [], policy.experiment.action_chunk
    for states, actions, rewards in _episodes(policy):
        returns = discounted_returns(line[0] * rewards + line[1], algorithm.discount)
        left = np.arange(len(rewards), 0, -1)
        cut = len(rewards) == policy.task.episode_limit > 1
        known = algorithm.discount**left <= NEGLIGIBLE if cut else left > 0
        whole = len(rewards) // chunk * chunk  # where an action was chosen, and all of its chunk was played
        units = from_unit(actions[:whole].reshape(whole // chunk, -1), policy.action_low, policy.action_high)
        asked = slice(0, whole, chunk)
        pairs.append(np.stack([policy.q(states[asked], units), returns[asked]])[:, known[asked]])
    found = np.concatenate(pairs, axis=1)
    return found[:, spaced(found.shape[1], PAIRS)]


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers 0 to count - 1, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(most, count)).round().astype(np.int64))


def _episodes(policy: LoadedPolicy) -> list[list[Array]]:
    """States (T, S), actions (T, A) in [-1, 1] and rewards (T,) of the policy's episodes."""
    episodes: list[list[tuple[Array, Array, float]]] = []
    now: list[Array] = []

    def begin(states: Array) -> None:
        episodes[:], now[:] = [[] for _ in states], states.copy()

    def add(which: Sequence[int], actions: Array, stepped: StepResult) -> None:
        for number, action, reward, state in zip(which, actions, stepped.reward, stepped.state, strict=True):
            episodes[number].append((now[number], action.copy(), reward))
            now[number] = state.copy()

    with closing(build_evaluator(policy.experiment, EPISODES)) as evaluator:
        evaluator.on_reset, evaluator.on_step = begin, add
        policy.evaluate_by(evaluator, Eager())
    return [[np.stack(column) for column in zip(*episode, strict=True)] for episode in episodes]


def discounted_returns(rewards: Array, discount: float) -> Array:
    """The sums (T,) of gamma^k r_{t+k} to the end of an episode of rewards (T,)."""
    return np.asarray(lfilter([1.0], [1.0, -discount], rewards[::-1])[::-1])


def reward_line(data: Transitions, policy: LoadedPolicy) -> tuple[float, float] | None:
    """Slope and offset of the line on which training's rewards lie over the recorded ones; None where it is no line."""
    recorded = load_data(policy.experiment, device="cpu", reward_transform="none")  # a GPU may have no room for two
    raw, trained = (each.reward.reshape(len(data), -1)[:, 0].double().cpu().numpy() for each in (recorded, data))
    if np.array_equal(raw, trained) or np.ptp(raw) == 0:
        return 1.0, float((trained - raw).mean())
    scale, shift = np.polyfit(raw, trained, 1)
    if np.abs(scale * raw + shift - trained).max() > 1e-3 * np.ptp(trained):
        return None
    return float(scale), float(shift)
