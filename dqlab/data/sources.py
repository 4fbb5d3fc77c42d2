"""Data sources, asked in order until one has the task's dataset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from dqlab.config.fields import check_counts
from dqlab.config.registry import Registry, configurable
from dqlab.data import download
from dqlab.data.download import BrokenError, Progress, UnavailableError, download_from, no_progress
from dqlab.data.formats import base
from dqlab.data.formats.arrays import opened_hdf5
from dqlab.data.formats.base import COLLECTED, CONVERTED, HDF5_MAGIC, PROVENANCE, Columns, Format, data_formats
from dqlab.data.rewards import reward_transforms
from dqlab.data.transitions import Transitions, action_rule, caveat_of, is_unit, q_learning_view
from dqlab.envs.bandit import BANDIT, CENTRES, MODES, REWARD_STD, REWARDS
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, message_of
from dqlab.files import expanded

SHARE, ABOUT = 0.5, 0.01  # of D4RL's rows: an excerpt has a smaller share; margin where they are not counted


@dataclass(frozen=True)
class LocatedDataset:
    """A dataset: what a format opens, or rows that a source has made."""

    path: Path | None  # the file; None where there are `rows`
    is_d4rl: bool  # whether it is D4RL's own file
    rows: Columns | None = None  # as they would be read from a file
    stand_in: bool = False  # whether it stands in for the task's own data, which must be said loudly
    format: Format | None = None  # the file's; None goes by its suffix
    address: str = ""  # where it was fetched from just now
    failed: tuple[str, ...] = ()  # addresses that were tried before that, and why they had nothing
    mend: str = ""  # what to do where the file is damaged
    downloaded: bool = False  # whether it must be what an earlier download has left a digest of, if one has
    note: str | None = None  # what must stand beside scores where it is no data of D4RL's tasks; None elsewhere
    source: str = ""  # that has it, as it was named
    skipped: tuple[str, ...] = ()  # why sources that were named before had nothing

    @property
    def caveat(self) -> str:
        """What must stand beside scores that come of it, as in `Provenance`."""
        return caveat_of(self.is_d4rl, self.rows is not None, self.note)

    @property
    def place(self) -> Path | None:
        """The file or folder; None where there are `rows`."""
        return None if self.path is None else self._format().place(self.path)

    def digest(self) -> str:
        """SHA-256 of the file, or of the rows; a DataError where the file is not the one that was downloaded."""
        if self.rows is not None:
            return base.digest_of_columns(self.rows)
        assert self.path is not None
        digest, place = self._format().digest(self.path), self._format().place(self.path)
        if self.downloaded and (fault := download.digest_fault(place, digest)):
            raise DataError(f"{place} has changed: its {fault} {self.mend}")
        return digest

    def read(self, task: Task) -> Columns:
        """All rows, as wide as the task's states and actions; a DataError where it is damaged, or another task's."""
        if self.rows is not None:
            return self.rows
        assert self.path is not None
        try:
            columns = self._format().read(self.path)
        except base.DamagedError as error:
            raise DataError(f"{error} {self.mend}".strip()) from error
        base.check_task(columns, task)
        return columns

    def _format(self) -> Format:
        return self.format or base.format_of(str(self.path))[0]


DataSource = Callable[[Task, str, Progress], LocatedDataset]
data_sources: Registry[DataSource] = Registry(
    "data_source",
    "Where a dataset comes from: `name` or `name:argument` in load_dataset.sources.",
    "load_dataset.sources",
    chosen_as="('{}',)",
    arguments=3,
)


def cache_path(task: Task) -> Path:
    """Where D4RL keeps the task's file; an UnavailableError where it has no such task."""
    if not task.file:
        raise UnavailableError(f"{task.name} is not a task of D4RL's")
    return download.cache_folder() / Path(task.file).name


@data_sources.register("d4rl_cache", source="D4RL 1.1, offline_env.py")
def d4rl_cache(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
    """The file that the D4RL package, or an earlier download, left in D4RL's cache.

    An excerpt, and one that dqlab collected or wrote from another format, does not count as D4RL's.
    """
    path, is_d4rl = cache_path(task), True
    if not path.exists():
        raise UnavailableError(f"{path} does not exist")
    with suppress(DataError), opened_hdf5(path) as (stored, notes):  # damaged: whoever reads the rows says so
        made_here = CONVERTED in notes or notes.get(PROVENANCE, "").startswith(COLLECTED)
        is_d4rl = not made_here and len(stored["observations"]) >= SHARE * task.rows
    mend = f"`dqlab data download {task.name} --force` replaces it."
    return LocatedDataset(path, is_d4rl, mend=mend, downloaded=True)


@data_sources.register("d4rl_download", source="D4RL 1.1, infos.py (URLs)")
def d4rl_download(
    task: Task,
    argument: str = "",
    progress: Progress = no_progress,
    mirrors: tuple[str, ...] = (),
    timeout: float = 30.0,
) -> LocatedDataset:
    """Download D4RL's file into D4RL's cache, from the first address that has it.

    After D4RL's server the 24 files of MuJoCo's robots are looked for in the Hugging Face data set `imone/D4RL`, whose
    rows are counted. A file's digest is kept beside it; what these two send later has to have the same.

    Args:
        task: which task's file.
        argument: the only mirror to ask, in place of all other addresses.
        progress: called with bytes done and in all.
        mirrors: further addresses, in order: a base with D4RL's folders, or an address with `{file}` (path on D4RL's
            server) or `{name}` (the file's name).
        timeout: seconds without a byte after which an address is given up.
    """
    path = cache_path(task)
    own, others = download.dataset_addresses(task), download.mirror_addresses(argument or mirrors, task.file)
    addresses = others if argument else [*own, *others]

    def check_row_count(address: str, part: Path) -> None:
        if address != download.hugging_face_address(task.file):
            return
        try:
            with opened_hdf5(part) as (stored, _):
                rows = len(stored["observations"])
        except DataError as error:
            raise BrokenError(f"{address} sends something else than {task.name}: {error}") from error
        about, margin = ("", 0.0) if task.counted else ("about ", ABOUT * task.rows)
        if abs(rows - task.rows) > margin:
            raise BrokenError(f"{address} sends {rows:,} rows for {task.name}, which has {about}{task.rows:,}.")

    options = {"magic": HDF5_MAGIC, "progress": progress, "timeout": timeout}
    return LocatedDataset(path, is_d4rl=True, **download_from(addresses, path, own, check_row_count, **options))


def embedded_sets() -> dict[str, Path]:
    """The files that ship with dqlab, by name."""
    return {path.stem: path for path in sorted(Path(str(files("dqlab.data") / "embedded")).glob("*.hdf5"))}


@data_sources.register("embedded", source="collected by gin/collect_walker2d.gin and gin/collect_hopper.gin")
def embedded(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
    """The small set that ships with dqlab for the task's robot: not D4RL's data, for trying things out."""
    name = argument or f"{task.robot}-medium-expert-mini"
    if name not in (known := embedded_sets()):
        raise UnavailableError(f"dqlab ships no set called {name}.hdf5")
    return LocatedDataset(known[name], is_d4rl=False, stand_in=True)


@data_sources.register("file", source="formats of `dqlab list data_format`")
def file(task: Task, argument: str = "", progress: Progress = no_progress, is_d4rl: bool = False) -> LocatedDataset:
    """A file of your own, as `file:PATH`, in the format of its suffix; set `file.is_d4rl` for a copy of D4RL's own."""
    if not argument:
        raise DataError("load_dataset.sources = 'file:PATH' names no path.")
    chosen, path = base.format_of(argument)
    if chosen.suffixes and not path.exists():
        raise DataError(f"There is no dataset at '{path}' (load_dataset.sources = 'file:PATH').")
    return LocatedDataset(path, is_d4rl, format=chosen)


def find_dataset(task: Task, sources: tuple[str, ...] | str, progress: Progress = no_progress) -> LocatedDataset:
    """What the first of the sources that has the task's dataset has found, unread; or a DataError says why none has."""
    sources = (sources,) if isinstance(sources, str) else tuple(sources)
    if not sources:
        raise DataError("load_dataset.sources is empty. Name at least one source, for example ('embedded',).")
    reasons: list[str] = []
    for source in sources:
        name, _, argument = source.partition(":")
        try:
            return replace(data_sources.get(name)(task, argument, progress), source=source, skipped=tuple(reasons))
        except UnavailableError as reason:
            reasons.append(f"{name}: {message_of(reason)}")
    advice, source = "Name a file", "file:PATH"
    if task.benchmark:
        advice, source = "Name its own source, with a folder of yours or without one", f"{task.benchmark}:FOLDER"
    elif task.source and task.source.partition(":")[0] not in {asked.partition(":")[0] for asked in sources}:
        advice, source = "It has one of its own", task.source
    elif task.file:
        advice = f"Put your copy into D4RL's cache, at {cache_path(task)}; or name it"
    none = f"No dataset for {task.name}. {'; '.join(reasons)}"
    raise DataError(f"{none}. {advice}: --set \"load_dataset.sources=('{source}',)\".")


@configurable("data")
def load_dataset(
    task: Task,
    sources: tuple[str, ...] = ("d4rl_cache", "d4rl_download"),
    reward_transform: str = "none",
    standardise_states: bool = False,
    action_bounds: str = "unit",
    progress: Progress = no_progress,
    view: Callable[..., Transitions] = q_learning_view,
) -> Transitions:
    """The task's transitions from the first source that has them, on the CPU.

    Args:
        task: which task.
        sources: names from the `data_source` registry, in order of preference, each with an optional `:argument`.
        reward_transform: a name from the `reward_transform` registry.
        standardise_states: subtract the dataset's mean from states and divide by its deviation, as TD3+BC does; the
            policy then sees the environment's states likewise.
        action_bounds: `unit` takes actions as shares of the environment's bounds, in [-1, 1], and refuses others; `env`
            rescales them from the environment's own bounds to [-1, 1]; `as_is` takes whatever there is.
        progress: called with bytes done and in all during a download.
        view: how rows become transitions; a run's goes by `Experiment.action_chunk` and its algorithm.

    Raises:
        DataError: no source has it (each one's reason is given), the file is damaged, its actions do not lie in the
            bounds, or there is no room for it.
        ConfigError: a choice is wrong, or the environment that has the bounds cannot be made.
    """
    transform, actions = reward_transforms.get(reward_transform), action_rule(task, action_bounds)
    found = find_dataset(task, sources, progress)
    low, high = ((), ()) if is_unit(actions.low, actions.high) else (actions.low, actions.high)
    origin = {name: getattr(found, name) for name in ("is_d4rl", "stand_in", "note", "address")}
    origin |= {"source": found.source.partition(":")[0], "skipped": (*found.skipped, *found.failed)}
    place = found.place  # a file's; what lies in a folder is known by its name
    origin |= {"path": str((place if place and place.is_file() else found.path) or "")}
    origin |= {"digest": found.digest(), "synthetic": found.rows is not None}
    origin |= {"action_rule": actions.name, "action_low": low, "action_high": high}
    return view(found.read(task), task.episode_limit, transform, origin, standardise_states, actions)


def absolute_source(source: str) -> str:
    """A data source as it is found from any folder."""
    name, colon, argument = source.partition(":")
    form, also, rest = argument.partition(":")
    if also and form in data_formats and data_formats.get(form).suffixes:
        name, argument = f"{name}:{form}", rest
    path = expanded(argument)
    return f"{name}:{path.resolve()}" if colon and path.exists() else source


@data_sources.register("bandit", source="Wang, Hunt, Zhou 2022 (2D bandit)", cites=("wang2023diffusion",))
def bandit(
    task: Task, argument: str = "", progress: Progress = no_progress, seed: int = 0, transitions: int = 10_000
) -> LocatedDataset:
    """The 2D bandit's actions and rewards, drawn from a seed: four Gaussian modes of equal size.

    Args:
        task: `bandit-2d`.
        argument, progress: not used.
        seed: of actions and rewards.
        transitions: in all, a multiple of 4.
    """
    if task != BANDIT:
        raise UnavailableError(f"it makes data for {BANDIT.name} only")
    check_counts("bandit", 0, seed=seed)
    if type(transitions) is not int or transitions < len(MODES) or transitions % len(MODES):
        raise ConfigError(f"bandit.transitions must be a positive multiple of {len(MODES)}, not {transitions!r}.")
    return LocatedDataset(None, is_d4rl=False, rows=make_rows(seed, transitions))


def make_rows(seed: int, transitions: int) -> Columns:
    """Rows of one-step episodes, the modes taking turns, in the layout of a D4RL file.

    Actions are N(centre, 0.05^2) clipped to [-1, 1], rewards N(mean of the mode, 0.5^2). One row more than transitions:
    the Q-learning view of a file takes nothing but an observation from its last row.
    """
    rng = np.random.default_rng(seed)
    mode, rows = np.arange(transitions) % len(MODES), transitions + 1
    actions = np.clip(rng.normal(CENTRES[mode], 0.05), -1.0, 1.0)
    rewards = rng.normal(REWARDS[mode], REWARD_STD)
    return Columns(
        np.zeros((rows, BANDIT.state_dim), dtype=np.float32),
        np.append(actions, np.zeros((1, BANDIT.action_dim)), axis=0).astype(np.float32),
        np.append(rewards, 0.0).astype(np.float32),
        terminals=np.arange(rows) < transitions,
        timeouts=np.zeros(rows, dtype=bool),
    )
