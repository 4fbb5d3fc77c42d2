"""From an experiment, which is configuration, to the objects that run it, in the order in which a run needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dqlab.algorithms import Algorithm
from dqlab.config.fields import check_field
from dqlab.config.identity import Replica
from dqlab.data.download import Progress, no_progress
from dqlab.data.sources import load_dataset
from dqlab.data.transitions import Transitions, q_learning_view
from dqlab.envs.backend import Environments, StepResult, env_backends
from dqlab.envs.physics import Array, physics_laws
from dqlab.errors import ConfigError, DqlabError, error_place, first_line, lacks_memory, mistake_in_gin
from dqlab.policies.base import Dims
from dqlab.runs.experiment import DTYPES, Experiment
from dqlab.training import Evaluator, Pack, Probe
from dqlab.training.execution.modes import ExecutionMode, execution_modes
from dqlab.training.pack import default_width
from dqlab.training.probe import free_bytes


def check_experiment(experiment: Experiment) -> None:
    """Build and exercise everything that does not need data, so that mistakes show at once: as a ConfigError.

    The process gets the experiment's threads, device and precision of matrix products.
    """
    device = experiment.resolved_device
    torch.set_num_threads(experiment.resolved_threads)
    if device.type == "cuda" and device.index is not None:  # PyTorch takes none without one here
        torch.cuda.set_device(device)
    torch.set_float32_matmul_precision(experiment.resolved_precision.float32_products)
    execution_modes.get(experiment.plan.execution)().resolve(device)
    experiment.plan.try_rules()
    physics_laws.get(experiment.physics)
    env_backends.get(experiment.env_backend)(experiment.resolved_task, experiment.physics)
    task = experiment.resolved_task
    task.arguments()
    wanted = f"at most {task.episode_limit:,}, the steps of {task.name}'s episodes"
    check_field(experiment.action_chunk <= task.episode_limit, experiment, "action_chunk", wanted)
    try:
        experiment.plan.factor(experiment.resolved_algorithm.lr_schedule)(0, 0, None)
        each = [experiment.algorithm_of(replica) for replica in experiment.resolved_replicas]
        check_phases(each[0], experiment.dims, experiment.plan.steps)
        check_varied(each, experiment.dims)
        experiment.probe.check_wiring()
    except DqlabError:
        raise
    except Exception as error:  # a component, perhaps a plugin's, may fail in any way
        if lacks_memory(error) or mistake_in_gin(error):
            raise
        said = f"{type(error).__name__}: {first_line(error)} ({error_place(error)}; DQLAB_DEBUG=1 shows the traceback, "
        said += "`dqlab check MODULE` tries each component of a module alone)"
        raise ConfigError(f"The configured components fail on a batch of made-up numbers: {said}.") from error


def build_evaluator(run: Experiment, episodes: int | None = None) -> Evaluator:
    """Roll-outs on the task's environment."""
    wanted = run.plan.eval_episodes if episodes is None else episodes
    return Evaluator(run.resolved_task, run.physics, wanted, run.env_backend, run.action_chunk)


@dataclass(eq=False)
class WatchedEnvironments(Environments):
    """Others, watched: `on_reset` is told of first states (n, S), `on_step` of numbers, actions (m, A) and results."""

    watched: Environments
    on_reset: Callable[[Array], None]
    on_step: Callable[[Sequence[int], Array, StepResult], None]

    def prepare(self, count: int) -> None:
        self.watched.prepare(count)

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        states = self.watched.reset(seeds, groups)
        self.on_reset(states)
        return states

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        stepped = self.watched.step(which, actions)
        self.on_step(which, actions, stepped)
        return stepped

    def close(self) -> None:
        self.watched.close()


def load_data(
    experiment: Experiment, progress: Progress = no_progress, device: torch.device | str = "", **options: Any
) -> Transitions:
    """The transitions that its algorithm learns from, on its device or another; `options` go to `load_dataset`."""
    needed = experiment.resolved_algorithm.reads_next_action
    view = partial(q_learning_view, chunk=experiment.action_chunk, next_action=needed)
    data = load_dataset(experiment.resolved_task, progress=progress, view=view, **options)
    return data.to(device or experiment.resolved_device, DTYPES[experiment.dtype])


def build_pack(experiment: Experiment, replicas: Sequence[Replica] | None = None) -> Pack:
    """Freshly initialised replicas, computed together where they fit; a ConfigError where not even one by one."""
    replicas = experiment.resolved_replicas if replicas is None else replicas
    fits = experiment.probe.memory.width(len(replicas), free_bytes(experiment.resolved_device))
    return Pack(
        [experiment.algorithm_of(replica) for replica in replicas],
        experiment.dims,
        [replica.seed for replica in replicas],
        dtype=DTYPES[experiment.dtype],
        device=experiment.resolved_device,
        learning_rate_factor=experiment.plan.factor(experiment.resolved_algorithm.lr_schedule),
        precision=experiment.resolved_precision,
        width=min(fits, default_width(experiment.resolved_device, len(replicas))),
    )


def execution_mode(experiment: Experiment, before: Mapping[str, Any]) -> ExecutionMode:
    """As configured; or what a run settled on `before`, by its run.json (empty if it is new): it repeats to the bit."""
    configured = experiment.plan.execution
    settled = before if before.get("execution_configured") == configured else {}
    mode = execution_modes.get(settled.get("execution", configured))()
    mode.reason = settled.get("execution_reason", mode.reason)
    return mode


def check_varied(each: Sequence[Algorithm], dims: Dims) -> None:
    """Raise a ConfigError where algorithms differ in a scalar that losses read from the algorithm, which they share."""
    first = each[0].hyper()
    differing = {name for other in each for name, value in other.hyper().items() if value != first[name]}
    if differing and (shared := sorted(differing & Probe(each[0], dims).shared_hyperparameters)):
        kind, name = type(each[0]).__name__, shared[0]
        mend = f"Read hyper['{name}'] in its losses, or name it in {kind}.structural."
        raise ConfigError(f"{kind} reads self.{name}, which replicas share, so they cannot differ in it. {mend}")


def check_phases(algorithm: Algorithm, dims: Dims, steps: int) -> None:
    """Raise a ConfigError unless so many steps reach every phase of training, and end in that of the selection loss."""
    kind, wanted = type(algorithm).__name__, algorithm.selection_loss.partition("/")[0]
    for name, trained in algorithm.trained(dims).items():
        if trained.first >= steps:
            late = f"from step {trained.first:,} on, but Training.steps = {steps:,} end before"
            raise ConfigError(f"{kind} trains '{name}' {late}. Raise Training.steps, or shorten the phases before.")
        if name == wanted and not trained.in_phase(steps - 1):
            early = f"whose loss selects evaluations, up to step {trained.last:,}, but Training.steps = {steps:,} go on"
            mend = f"Name a loss of the last phase in {kind}.selection_loss."
            raise ConfigError(f"{kind} trains '{name}', {early}. {mend}")
