"""What is run, as gin files say it: task, algorithm, seeds, device; and what is built of it, as a run needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from dqlab.algorithms import Algorithm, algorithms
from dqlab.config.fields import NonNegativeInt, PositiveInt, check_field, check_fields
from dqlab.config.gin_state import complete_name
from dqlab.config.identity import Replica, is_seed
from dqlab.config.registry import configurable
from dqlab.data.download import Progress, no_progress
from dqlab.data.sources import embedded_sets, load_dataset
from dqlab.data.transitions import Transitions, q_learning_view
from dqlab.envs import tasks
from dqlab.envs.backend import env_backends
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DqlabError, error_place, first_line, lacks_memory, mistake_in_gin
from dqlab.machine import threads_for
from dqlab.networks.precision import Precision, precisions
from dqlab.policies.base import Dims
from dqlab.training import Evaluator, Pack, Probe, Training
from dqlab.training.execution.modes import ExecutionMode, execution_modes
from dqlab.training.model_selection import early_stops, offline_rules
from dqlab.training.probe import free_bytes

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@configurable("experiment")
@dataclass(frozen=True)
class Experiment:
    """What is run: an algorithm on a task, for some seeds, on a device.

    Attributes:
        task, algorithm, physics: names from their registries.
        seeds: one replica each, trained together, where `replicas` is empty.
        replicas: name -> `{'seed': 0, 'cell': 'eta=0.5', 'points': {'eta': '0.5'}, 'set': {'DiffusionQL.eta': 0.5}}`:
            what is trained together instead; `set` binds scalar hyper-parameters of the algorithm.
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:<n>`.
        action_chunk: h, actions that are chosen at once and played one after the other; the algorithm learns from
            transitions of h steps (Q-chunking: Li, Zhou, Levine 2025).
        dtype: `float32` or `float64`.
        env_backend: what steps the environments of evaluations, a name from its registry.
        precision: of the networks' matrix products, a name from the `precision` registry; `full` is that of `dtype`.
        threads: CPU threads of the tensor library; 0 chooses by size.
        cell: label of the ablation's cell that this is, for the record; empty where it is none.
    """

    task: str = ""
    algorithm: str = "diffusion_ql"
    seeds: tuple[int, ...] = (0,)
    physics: str = "mujoco210"
    env_backend: str = "gymnasium"
    action_chunk: PositiveInt = 1
    device: str = "auto"
    dtype: str = "float32"
    precision: str = "full"
    threads: NonNegativeInt = 0
    cell: str = ""
    replicas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(bool(self.task), self, "task", "set: one of those that `dqlab list task` shows")
        check_field(self.dtype in DTYPES, self, "dtype", f"one of {', '.join(DTYPES)}")
        seeds = self.seeds if isinstance(self.seeds, (tuple, list)) else ()
        fine = bool(seeds) and all(is_seed(seed) for seed in seeds) and len(set(seeds)) == len(seeds)
        check_field(fine, self, "seeds", "a tuple of different integers >= 0 (and below 2**32)")
        check_field(isinstance(self.replicas, Mapping), self, "replicas", "a dictionary, name -> settings")
        precisions.get(self.precision)
        _ = self.resolved_replicas

    @cached_property
    def resolved_replicas(self) -> tuple[Replica, ...]:
        """What is trained together; a ConfigError where a replica's settings are malformed."""
        named = tuple(Replica.read(name, given) for name, given in self.replicas.items())
        return named or tuple(Replica.plain(seed, self.cell) for seed in self.seeds)

    @cached_property
    def resolved_task(self) -> Task:
        if self.task not in tasks and self.task in embedded_sets():
            source = f"load_dataset.sources=('embedded:{self.task}',)"
            raise ConfigError(f"'{self.task}' is a dataset, not a task: choose a task of its robot, and {source}.")
        return tasks.get(self.task)

    @property
    def stepped_by(self) -> str:
        """The dynamics of its evaluations: the law's name, or whose they are without one; and the task's condition."""
        own, task = getattr(env_backends.get(self.env_backend), "own_physics", ""), self.resolved_task
        law = str(own or (self.physics if task.body is not None else "the environment's own"))
        return ", ".join(filter(None, (law, task.condition)))

    @cached_property
    def resolved_algorithm(self) -> Algorithm:
        return algorithms.get(self.algorithm)()

    def algorithm_of(self, replica: Replica) -> Algorithm:
        """The algorithm with a replica's own scalars; a ConfigError where those cannot differ, or it refuses them."""
        algorithm, place = self.resolved_algorithm, f"Experiment.replicas['{replica.name}']"
        own, fields = algorithms.selector(algorithms.entry(self.algorithm)), {}
        for binding, value in replica.bindings.items():
            selector, _, name = complete_name(binding).rpartition(".")
            if selector != own or name not in algorithm.hyper():
                known = f"no scalar hyper-parameter of '{self.algorithm}': those are {', '.join(algorithm.hyper())}"
                raise ConfigError(f"{place} sets {binding}, which is {known}. Bind it for the whole run.")
            fields[name] = value
        try:
            return replace(algorithm, **fields)  # type: ignore[type-var]
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error

    @cached_property
    def probe(self) -> Probe:
        """What is found out about the algorithm before step 0."""
        batch, dtype = self.plan.batch_size, DTYPES[self.dtype]
        return Probe(self.resolved_algorithm, self.dims, batch, dtype, self.resolved_precision)

    @cached_property
    def plan(self) -> Training:
        return Training()

    @property
    def dims(self) -> Dims:
        """Sizes of state and action; an action holds those of a chunk."""
        task, chunk = self.resolved_task, self.action_chunk
        return Dims(task.state_dim, task.action_dim * chunk, chunk=chunk)

    @cached_property
    def resolved_device(self) -> torch.device:
        """The device that is used; a ConfigError where CUDA is asked for and there is none."""
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        name = {"auto": "cuda" if there else "cpu"}.get(self.device, self.device)
        known = re.fullmatch(r"cpu(?::0)?|cuda(?::(0|[1-9]\d*))?", name)
        if not known:
            raise ConfigError(f"--device {name}: dqlab computes on cpu and cuda, or cuda:N. Use --device cpu, or auto.")
        if name.startswith("cuda") and int(known[1] or 0) >= there:
            found = f"CUDA devices up to cuda:{there - 1} only" if there else "no CUDA device"
            raise ConfigError(f"--device {name}: here PyTorch finds {found}. Use --device cpu, or auto.")
        return torch.device(name)

    @cached_property
    def resolved_precision(self) -> Precision:
        """The precision of matrix products; a ConfigError where the device lacks it, or it is not for `dtype`."""
        precision = precisions.get(self.precision)()
        check_field(DTYPES[self.dtype] in precision.dtypes, self, "precision", f"'full', as dtype is {self.dtype!r}")
        if lacking := precision.unavailable_reason(self.resolved_device):
            raise ConfigError(f"Experiment.precision='{self.precision}' needs {lacking}. Use 'full'.")
        return precision

    @cached_property
    def resolved_threads(self) -> int:
        """CPU threads of the tensor library: as asked, or by the number of rows of an update's matrix products."""
        return self.threads or threads_for(self.plan.batch_size)


@configurable("tracking")
@dataclass(frozen=True)
class Tracking:
    """Where a run is recorded besides its folder.

    Attributes:
        mlflow: whether to record in MLflow ($MLFLOW_TRACKING_URI, or mlflow.db beside the runs).
        experiment: MLflow's experiment; the task's name if empty.
        patience: seconds to wait at the end for the last records to be sent.
        keep_checkpoints: keep the weights of every evaluation, not only of the selected ones.
    """

    mlflow: bool = True
    experiment: str = ""
    patience: float = 60.0
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


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
    early_stops.get(experiment.plan.early_stop)([1.0])  # called after evaluations; mistakes, and parameters, show now
    offline_rules.get(experiment.plan.offline_rule)([1.0], experiment.plan.top_k)
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
        hint = ""
        if isinstance(error, KeyError):
            hint = " Is it a network of `build`, a noise of `update_noise` or `act_noise`, or a hyper-parameter?"
        elif experiment.action_chunk > 1:
            hint = " Rewards of action chunks are (B, h): docs/plugins.md."
        raise ConfigError(f"The configured components fail on a batch of made-up numbers: {said}.{hint}") from error


def build_evaluator(run: Experiment, episodes: int | None = None) -> Evaluator:
    """Roll-outs on the task's environment."""
    wanted = run.plan.eval_episodes if episodes is None else episodes
    return Evaluator(run.resolved_task, run.physics, wanted, run.env_backend, run.action_chunk)


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
    device = experiment.resolved_device
    fits = experiment.probe.memory.width(len(replicas), free_bytes(device))
    return Pack(
        [experiment.algorithm_of(replica) for replica in replicas],
        experiment.dims,
        [replica.seed for replica in replicas],
        dtype=DTYPES[experiment.dtype],
        device=device,
        learning_rate_factor=experiment.plan.factor(experiment.resolved_algorithm.lr_schedule),
        precision=experiment.resolved_precision,
        width=1 if device.type == "cpu" else fits,
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
        if not trained.updates_in(range(trained.first, min(trained.last or steps, steps))):
            rare = f"at every {trained.every:,}th step only, and at none of Training.steps = {steps:,}"
            raise ConfigError(f"{kind} trains '{name}' {rare}. Raise Training.steps, or train it more often.")
        if name == wanted and not trained.in_phase(steps - 1):
            early = f"whose loss selects evaluations, up to step {trained.last:,}, but Training.steps = {steps:,} go on"
            mend = f"Name a loss of the last phase in {kind}.selection_loss."
            raise ConfigError(f"{kind} trains '{name}', {early}. {mend}")
