"""A gin configuration becomes a runnable experiment."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dqlab.algorithms import Algorithm, algorithms
from dqlab.config import gin_files
from dqlab.config.fields import check_field, check_fields
from dqlab.config.gin_state import complete_name
from dqlab.config.registry import configurable
from dqlab.config.replica import Replica, is_seed
from dqlab.data import Transitions, load_dataset
from dqlab.data.download import Progress, no_progress
from dqlab.envs import env_backends, tasks
from dqlab.envs.backend import physics_of
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import PACKAGE, ConfigError, DqlabError, error_place, first_line, lacks_memory
from dqlab.machine import cores, package_version, threads_for
from dqlab.networks.stacking import Precision, precisions
from dqlab.policies.base import Dims
from dqlab.training import Evaluator, Pack, Probe, Training
from dqlab.training.execution.modes import ComputeBudget, ExecutionMode, execution_modes
from dqlab.training.pack import default_width
from dqlab.training.probe import free_bytes


def scalar_of(name: str, algorithm: Algorithm, binding: str) -> str | None:
    """The scalar hyper-parameter that a binding sets; None where it sets anything else.

    Args:
        name: the algorithm's, in its registry.
        algorithm: it, configured.
        binding: a gin name, such as `DiffusionQL.eta`, however short.
    """
    selector, _, field = complete_name(binding).rpartition(".")
    own = selector == algorithms.selector(algorithms.entry(name))
    return field if own and field in algorithm.hyper() else None


def with_scalars(name: str, algorithm: Algorithm, replica: Replica) -> Algorithm:
    """The algorithm with the scalars that a replica sets.

    Raises:
        ConfigError: it sets something else, or what the algorithm refuses.
    """
    place, fields = f"Experiment.replicas['{replica.name}']", {}
    for binding, value in replica.bindings.items():
        field = scalar_of(name, algorithm, binding)
        if field is None:
            raise ConfigError(
                f"{place} sets {binding}, which is no scalar hyper-parameter of '{name}': those are "
                f"{', '.join(algorithm.hyper())}. Bind it for the whole run."
            )
        fields[field] = value
    try:
        return replace(algorithm, **fields)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def check_varied(each: Sequence[Algorithm], dims: Dims) -> None:
    """See that the scalars in which algorithms differ reach their losses as a replica's own.

    Raises:
        ConfigError: one is read from the algorithm itself, which all replicas of a pack share.
    """
    first = each[0].hyper()
    differing = {name for other in each for name, value in other.hyper().items() if value != first[name]}
    if differing and (shared := sorted(differing & Probe(each[0], dims).shared_hyperparameters)):
        kind = type(each[0]).__name__
        raise ConfigError(
            f"{kind} reads self.{shared[0]}, which all replicas of a pack share, so they cannot differ in it. Read "
            f"hyper['{shared[0]}'] in its losses, or name it in {kind}.structural."
        )


DTYPES = {"float32": torch.float32, "float64": torch.float64}
VERSIONED = ("dqlab", "torch", "numpy", "gin-config", "gymnasium", "mujoco", "mlflow")


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
    device: str = "auto"
    dtype: str = "float32"
    precision: str = "full"
    threads: int = 0
    cell: str = ""
    replicas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(bool(self.task), self, "task", "set: one of those that `dqlab list task` shows")
        check_field(self.dtype in DTYPES, self, "dtype", f"one of {', '.join(DTYPES)}")
        seeds = self.seeds if isinstance(self.seeds, (tuple, list)) else ()
        fine = bool(seeds) and all(is_seed(seed) for seed in seeds) and len(set(seeds)) == len(seeds)
        check_field(fine, self, "seeds", "a tuple of different integers >= 0 (and below 2**32)")
        check_field(self.threads >= 0, self, "threads", "at least 0")
        check_field(isinstance(self.replicas, Mapping), self, "replicas", "a dictionary, name -> settings")
        precisions.get(self.precision)
        _ = self.resolved_replicas

    @cached_property
    def resolved_replicas(self) -> tuple[Replica, ...]:
        """What is trained together.

        Raises:
            ConfigError: a replica's settings are malformed.
        """
        named = tuple(Replica.read(name, given) for name, given in self.replicas.items())
        return named or tuple(Replica.plain(seed, self.cell) for seed in self.seeds)

    @cached_property
    def resolved_task(self) -> Task:
        """The task's facts."""
        return tasks.get(self.task)

    @property
    def stepped_by(self) -> str:
        """The physics of its evaluations: the law, or that of a backend to which laws do not apply."""
        return physics_of(self.resolved_task, self.env_backend, self.physics)

    @cached_property
    def resolved_algorithm(self) -> Algorithm:
        """The algorithm, configured."""
        return algorithms.get(self.algorithm)()

    def algorithm_of(self, replica: Replica) -> Algorithm:
        """The algorithm with a replica's own scalars.

        Raises:
            ConfigError: it sets what cannot differ within a pack.
        """
        return with_scalars(self.algorithm, self.resolved_algorithm, replica)

    @cached_property
    def probe(self) -> Probe:
        """What is found out about the algorithm before step 0."""
        dtype, precision = DTYPES[self.dtype], self.resolved_precision
        return Probe(self.resolved_algorithm, self.dims, self.plan.batch_size, dtype, precision)

    @cached_property
    def plan(self) -> Training:
        """The budget."""
        return Training()

    @property
    def dims(self) -> Dims:
        """Sizes of state and action."""
        return Dims(self.resolved_task.state_dim, self.resolved_task.action_dim)

    @cached_property
    def resolved_device(self) -> torch.device:
        """The device that is used.

        Raises:
            ConfigError: CUDA is asked for and there is none.
        """
        name = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(self.device, self.device)
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"There is no device '{name}'. Use auto, cpu or cuda.") from error
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"--device {name}: dqlab computes on cpu and cuda only. Use --device cpu, or auto.")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: PyTorch finds no CUDA device here. Use --device cpu, or auto.")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise ConfigError(f"--device {name}: the last CUDA device of this machine is cuda:{last}.")
        return device

    @cached_property
    def resolved_precision(self) -> Precision:
        """The precision of matrix products.

        Raises:
            ConfigError: the device does not have it.
        """
        precision = precisions.get(self.precision)()
        if lacking := precision.unavailable_reason(self.resolved_device):
            raise ConfigError(f"Experiment.precision='{self.precision}' needs {lacking}. Use 'full'.")
        return precision

    @cached_property
    def resolved_threads(self) -> int:
        """CPU threads of the tensor library: as asked, or by the number of rows of an update's matrix products."""
        return self.threads or threads_for(self.plan.batch_size)

    @property
    def about_threads(self) -> str:
        """A line on the number of threads, and why."""
        why = "as configured" if self.threads else f"by size: updates of {self.plan.batch_size} rows"
        idle = "; idle ones sleep" if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" else ""
        return f"threads: {self.resolved_threads} of {cores()} cores ({why}{idle})"

    def check(self) -> None:
        """Build and exercise everything that does not need data, so that mistakes show at once."""
        torch.set_num_threads(self.resolved_threads)
        if (
            self.resolved_device.type == "cuda" and self.resolved_device.index is not None
        ):  # PyTorch takes none without one here
            torch.cuda.set_device(self.resolved_device)
        torch.set_float32_matmul_precision(self.resolved_precision.float32_products)
        execution_modes.get(self.plan.execution)().resolve(ComputeBudget(self.resolved_device, 0.0))
        self.plan.try_rules()
        _ = (
            self.resolved_device,
            self.plan.factor(self.resolved_algorithm.lr_schedule)(0),
            physics_laws.get(self.physics),
        )
        env_backends.get(self.env_backend)(self.resolved_task, self.physics)
        self.resolved_task.arguments()
        each = [self.algorithm_of(replica) for replica in self.resolved_replicas]
        try:
            check_varied(each, self.dims)
            self.probe.check_wiring()
        except DqlabError:
            raise
        except Exception as error:  # a part, perhaps a plugin's, may fail in any way
            if lacks_memory(error):
                raise
            raise ConfigError(f"The configured parts fail on a batch of made-up numbers: {_where(error)}.") from error

    def data(self, progress: Progress = no_progress) -> Transitions:
        """The dataset, on the device."""
        return load_dataset(self.resolved_task, progress=progress).to(self.resolved_device, DTYPES[self.dtype])

    def mode(self, before: Mapping[str, Any]) -> ExecutionMode:
        """The execution mode: as configured; or what a run settled on before, so that it repeats to the last bit.

        Args:
            before: run.json of the run that is continued or repeated; empty for a new one.
        """
        unchanged = "execution" in before and before.get("execution_configured") == self.plan.execution
        return execution_modes.get(before["execution"] if unchanged else self.plan.execution)()

    def pack(self, replicas: Sequence[Replica] | None = None) -> Pack:
        """Freshly initialised replicas, the experiment's or others; computed together where they fit.

        Raises:
            ConfigError: they do not fit into the device's memory, not even computed one by one.
        """
        replicas = self.resolved_replicas if replicas is None else replicas
        fits = self.probe.memory.width(len(replicas), free_bytes(self.resolved_device))
        return Pack(
            [self.algorithm_of(replica) for replica in replicas],
            self.dims,
            [replica.seed for replica in replicas],
            dtype=DTYPES[self.dtype],
            device=self.resolved_device,
            learning_rate_factor=self.plan.factor(self.resolved_algorithm.lr_schedule),
            precision=self.resolved_precision,
            width=min(fits, default_width(self.resolved_device, len(replicas))),
        )

    def evaluator(self, episodes: int | None = None) -> Evaluator:
        """Roll-outs on the task's environment."""
        wanted = self.plan.eval_episodes if episodes is None else episodes
        return Evaluator(self.resolved_task, self.physics, wanted, self.env_backend)


def _where(error: Exception) -> str:
    """An error in one line, with its place; $DQLAB_DEBUG shows the traceback."""
    return f"{type(error).__name__}: {first_line(error)} ({error_place(error)}; DQLAB_DEBUG=1 shows the traceback)"


def experiment_facts(experiment: Experiment, data: Transitions, loaded: gin_files.LoadedConfig) -> dict[str, Any]:
    """What the record of a run says about it: tags, not parameters."""
    provenance = data.provenance
    return {
        "task": experiment.task,
        "algorithm": experiment.algorithm,
        "cell": experiment.cell,
        "seeds": sorted({replica.seed for replica in experiment.resolved_replicas}),
        "replicas": {replica.name: replica.as_dict() for replica in experiment.resolved_replicas},
        "physics": experiment.stepped_by,
        "env_backend": experiment.env_backend,
        "device": str(experiment.resolved_device),
        "threads": experiment.resolved_threads,
        "precision": experiment.precision,
        "device_name": _device_name(experiment.resolved_device),
        "variants": _variants(experiment),
        "data": {**provenance.as_dict(), "score_mean": experiment.resolved_task.score(provenance.return_mean)},
        "caveat": "; ".join(filter(None, (provenance.caveat, experiment.resolved_task.caveat))),
        "scored": experiment.resolved_task.scored,
        "versions": {name: package_version(name) for name in VERSIONED} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "gin_files": [str(path) for path in loaded.files],
        "plugins": loaded.imports,
    }


def _variants(experiment: Experiment) -> dict[str, str]:
    """Which variant of the official code's three quirks this run uses."""
    return {
        "lr_schedule": experiment.resolved_algorithm.lr_schedule,
        "offline_rule": experiment.plan.offline_rule,
        "early_stop": experiment.plan.early_stop,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _git_commit() -> str:
    """The commit of the code that runs, with '+changes' if it is not exactly that; empty outside a checkout."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(PACKAGE), *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):
            return ""
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
