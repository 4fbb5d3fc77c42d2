"""What a pack will take, in time and memory, from a few updates and actions on made-up numbers."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from dqlab.ablation.planning import MEASURED, PlannedPack, load_pack
from dqlab.envs import make_env
from dqlab.files import size_of
from dqlab.runs import Experiment
from dqlab.runs.build import build_pack, check_experiment
from dqlab.training import Pack as Replicas
from dqlab.training.execution.modes import Eager, execution_modes
from dqlab.training.probe import flops_of_updates, made_up_update
from dqlab.training.programs import SamplerCore

LONG, SHORT = 0.3, 0.05
"""Seconds for which each part is timed: to be shown, and only to put packs into an order."""
START = 10.0
"""Seconds that a process takes to start and to read its data."""
COMPILED = 0.5
"""Time of a compiled update, of an eager one's (docs/performance.md)."""


class Cost(NamedTuple):
    """What a pack takes: seconds with episodes of full length, bytes on the host and on a GPU (0 without), threads."""

    seconds: float
    memory: int
    gpu_memory: int
    threads: int


PROCESS = 600 * 2**20
"""Bytes of a process with PyTorch and MuJoCo, and nothing to train."""
ENVIRONMENT = 2 * 2**20
"""Bytes of one more copy of an environment, at most: D4RL's take about one million."""


def costs_of_packs(packs: Sequence[PlannedPack], seconds: float = LONG) -> dict[str, Cost]:
    """Cost of every pack, by its id; of one kind and size one is measured, and of all kinds some."""
    kinds = {(id(pack.kind), len(pack.cells)): pack for pack in packs}
    spread = np.linspace(0, len(kinds) - 1, min(len(kinds), MEASURED), dtype=int)
    measured = {key: measure_pack(kinds[key], seconds) for key in (list(kinds)[index] for index in spread)}
    gc.collect()  # a step and its programs refer to each other
    torch.cuda.empty_cache()  # of a GPU that packs are about to share; nothing without one
    if not measured:
        return {}
    largest = Cost(*map(max, zip(*measured.values(), strict=True)))
    return {pack.id: measured.get((id(pack.kind), len(pack.cells)), largest) for pack in packs}


def measure_pack(pack: PlannedPack, seconds: float = LONG) -> Cost:
    """Time updates and evaluations of a pack, and count its memory.

    On a CPU replicas are computed one by one, so that one is measured for all.
    """
    experiment, on_gpu = load_pack(pack)
    check_experiment(experiment)
    plan, device = experiment.plan, experiment.resolved_device
    times = len(pack.cells) if device.type == "cpu" else 1
    replicas = build_pack(experiment, experiment.resolved_replicas[:1] if device.type == "cpu" else None)
    batch, noise = made_up_update(replicas, plan.batch_size, replicas.replicas)

    def update(step: int) -> None:
        replicas.state.step = step
        replicas.update(batch, noise)
        replicas.synchronize()

    work = float(flops_of_updates(replicas, plan.batch_size, range(plan.steps)) * times)
    mode = execution_modes.get(plan.execution)().resolve(device, work)
    factor = COMPILED if mode.preparation else 1.0
    stretches = replicas.stretches(range(plan.steps))
    updating = factor * sum(len(each) * _seconds(partial(update, each.start), seconds) for each in stretches)
    evaluations = math.ceil(plan.steps / plan.eval_every) + plan.evaluate_untrained
    acting = factor * _act_seconds(experiment, replicas, seconds)
    acting += replicas.replicas * plan.eval_episodes * _env_seconds(experiment, seconds)
    evaluating = evaluations * experiment.resolved_task.episode_limit * acting
    needed = experiment.probe.memory
    training = len(pack.cells) * needed.kept + replicas.width * needed.working
    environments = len(pack.cells) * plan.eval_episodes * ENVIRONMENT
    file = 2 * size_of(pack.kind.data.path) if pack.kind.data.path is not None else 0
    return Cost(
        START + times * (updating + evaluating),
        PROCESS + environments + (0 if on_gpu else training) + file,
        training if on_gpu else 0,
        experiment.resolved_threads,
    )


def _act_seconds(experiment: Experiment, replicas: Replicas, seconds: float) -> float:
    """Seconds that actions for one step of all episodes take."""
    core = SamplerCore(replicas, experiment.plan.eval_episodes, Eager())
    noise = core.noise_stream("calibration").at(0)
    states = torch.zeros(replicas.replicas, experiment.plan.eval_episodes, experiment.dims.state)
    return _seconds(lambda: core.sample_actions(states, noise).cpu(), seconds)


def _seconds(function: Callable[[], object], least: float) -> float:
    """Seconds a call, after two calls to warm up."""
    function()
    function()
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < least:
        function()
        calls += 1
    return (time.perf_counter() - started) / calls


def _env_seconds(experiment: Experiment, least: float) -> float:
    """Seconds a step of the task's environment."""
    env = make_env(experiment.resolved_task, experiment.physics)
    env.reset(seed=0)
    action = env.action_space.sample()

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset(seed=0)

    return _seconds(step, least)
