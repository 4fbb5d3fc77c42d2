"""Data sources, asked in order until one has the task's dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dqlab.data.cache import cache_folder
from dqlab.data.d4rl import Recorded, read_d4rl
from dqlab.data.download import Progress, download, silent
from dqlab.data.rewards import reward_transforms
from dqlab.data.transitions import Transitions, caveat_of, q_learning_view
from dqlab.data.unavailable import UnavailableError
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, message_of
from dqlab.files import sha256_of
from dqlab.registry import Registry, configurable


@dataclass(frozen=True)
class Found:
    """A dataset: a file in D4RL's layout, or rows that a source has made.

    Attributes:
        path: the file; None where there are `rows`.
        is_d4rl: whether it is D4RL's own file.
        rows: the rows, as they would be read from a file.
        stand_in: whether it stands in for the task's own data, which must be said loudly.
    """

    path: Path | None
    is_d4rl: bool
    rows: Recorded | None = None
    stand_in: bool = False

    @property
    def caveat(self) -> str:
        """What must stand beside scores that come of it, as in `Provenance`."""
        return caveat_of(self.is_d4rl, self.rows is not None)

    def digest(self) -> str:
        """SHA-256 of the file, or of the rows."""
        if self.rows is not None:
            return self.rows.digest()
        assert self.path is not None
        return sha256_of(self.path)

    def read(self, task: Task) -> tuple[Recorded, dict[str, Any]]:
        """The rows, and what `Provenance` wants to know of where they are from."""
        if self.rows is not None:
            return self.rows, {"path": "", "digest": self.digest(), "is_d4rl": False, "synthetic": True}
        assert self.path is not None
        origin = {"path": str(self.path), "digest": self.digest(), "is_d4rl": self.is_d4rl}
        origin["stand_in"] = self.stand_in
        return read_d4rl(self.path, task.state_dim, task.action_dim), origin


DataSource = Callable[[Task, str, Progress], Found]

data_sources: Registry[DataSource] = Registry(
    "data_source",
    "Where a dataset comes from: `name` or `name:argument` in load_dataset.sources.",
    "load_dataset.sources",
    chosen_as="('{}',)",
    arguments=3,
)


def cache_path(task: Task) -> Path:
    """Where D4RL keeps the task's file: $D4RL_DATASET_DIR, or ~/.d4rl/datasets.

    Raises:
        UnavailableError: D4RL has no such task.
    """
    if not task.file:
        raise UnavailableError(f"{task.name} is not a task of D4RL's")
    return cache_folder() / Path(task.file).name


@data_sources.register("d4rl_cache", source="D4RL 1.1, offline_env.py")
def d4rl_cache(task: Task, argument: str = "", progress: Progress = silent) -> Found:
    """The file that the D4RL package, or an earlier download, left in D4RL's cache."""
    path = cache_path(task)
    if not path.exists():
        raise UnavailableError(f"{path} does not exist")
    return Found(path, is_d4rl=True)


@data_sources.register("d4rl_download", source="D4RL 1.1, infos.py (URLs)")
def d4rl_download(
    task: Task,
    argument: str = "",
    progress: Progress = silent,
    root: str = "",
    sha256: str | None = None,
    timeout: float = 30.0,
) -> Found:
    """Download D4RL's file into D4RL's cache.

    Args:
        task: which task's file.
        argument: base address of a mirror with D4RL's folder layout; D4RL's server if empty.
        progress: called with bytes done and in all.
        root: the same as `argument`, for every use of this source.
        sha256: expected digest of the file, if you know it; D4RL publishes none.
        timeout: seconds without a byte after which the attempt is given up.
    """
    path, mirror = cache_path(task), argument or root
    url = f"{mirror.rstrip('/')}/{task.file}" if mirror else task.url
    download(url, path, sha256=sha256, progress=progress, timeout=timeout)
    return Found(path, is_d4rl=True)


@data_sources.register("embedded", source="collected by gin/collect_walker2d.gin and gin/collect_hopper.gin")
def embedded(task: Task, argument: str = "", progress: Progress = silent) -> Found:
    """The small set that ships with dqlab for the task's robot: not D4RL's data, for trying things out."""
    name = f"{argument or task.robot + '-medium-expert-mini'}.hdf5"
    path = Path(str(files("dqlab.data") / "embedded" / name))
    if not path.exists():
        raise UnavailableError(f"dqlab ships no set called {name}")
    return Found(path, is_d4rl=False, stand_in=True)


@data_sources.register("file", source="D4RL 1.1, the layout of its HDF5 files")
def file(task: Task, argument: str = "", progress: Progress = silent, is_d4rl: bool = False) -> Found:
    """A file of your own in D4RL's layout, as `file:PATH`; set `file.is_d4rl` for a copy of D4RL's own."""
    path = Path(argument).expanduser()
    if not argument or not path.exists():
        raise DataError(f"There is no dataset at '{argument}' (load_dataset.sources = 'file:PATH').")
    return Found(path, is_d4rl)


def find_dataset(task: Task, sources: tuple[str, ...] | str, progress: Progress = silent) -> tuple[str, Found]:
    """The first of the sources that has the task's dataset, as it was named, and what it found; nothing is read.

    Raises:
        DataError: no source has it.
    """
    sources = (sources,) if isinstance(sources, str) else tuple(sources)
    if not sources:
        raise DataError("load_dataset.sources is empty. Name at least one source, for example ('embedded',).")
    _, found, skipped = _first_available(task, sources, progress)
    return sources[len(skipped)], found


@configurable("data")
def load_dataset(
    task: Task,
    sources: tuple[str, ...] = ("d4rl_cache", "d4rl_download"),
    reward_transform: str = "none",
    standardise_states: bool = False,
    progress: Progress = silent,
) -> Transitions:
    """The task's transitions from the first source that has them, on the CPU.

    Args:
        task: which task.
        sources: names from the `data_source` registry, in order of preference, each with an optional `:argument`.
        reward_transform: a name from the `reward_transform` registry.
        standardise_states: subtract the dataset's mean from states and divide by its deviation, as TD3+BC does; the
            policy then sees the environment's states likewise.
        progress: called with bytes done and in all during a download.

    Raises:
        DataError: no source has it (each one's reason is given), or the file is damaged.
    """
    transform = reward_transforms.get(reward_transform)
    sources = (sources,) if isinstance(sources, str) else tuple(sources)
    if not sources:
        raise DataError("load_dataset.sources is empty. Name at least one source, for example ('embedded',).")
    name, found, skipped = _first_available(task, sources, progress)
    recorded, origin = found.read(task)
    data = q_learning_view(recorded, task.episode_limit, transform, {**origin, "source": name, "skipped": skipped})
    return data.standardised() if standardise_states else data


def _first_available(task: Task, sources: tuple[str, ...], progress: Progress) -> tuple[str, Found, tuple[str, ...]]:
    """The first source's name and file, and why those before it had none."""
    reasons: list[str] = []
    for source in sources:
        name, _, argument = source.partition(":")
        try:
            return name, data_sources.get(name)(task, argument, progress), tuple(reasons)
        except UnavailableError as reason:
            reasons.append(f"{name}: {message_of(reason)}")
    cache = f"Put the file into D4RL's cache ({cache_path(task)}), or name it" if task.file else "Name a file"
    raise DataError(
        f"No dataset for {task.name}. " + "; ".join(reasons) + f". {cache}: "
        "--set \"load_dataset.sources=('file:PATH',)\"."
    )
