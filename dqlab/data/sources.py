"""Data sources, asked in order until one has the task's dataset."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from dqlab.data.bounds import action_rule
from dqlab.data.cache import cache_folder
from dqlab.data.contents import View
from dqlab.data.download import HDF5_MAGIC, BrokenError, Progress, refuse_if_planning, silent
from dqlab.data.formats.base import data_formats
from dqlab.data.formats.choosing import format_of
from dqlab.data.formats.d4rl import D4RL
from dqlab.data.found import Found
from dqlab.data.mapped import map_name
from dqlab.data.mirrors import address_of, fetch_from, second_home
from dqlab.data.own import is_d4rls
from dqlab.data.placing import check_choice, place
from dqlab.data.recorded import differs, record
from dqlab.data.rewards import reward_transforms
from dqlab.data.transitions import Transitions, transitions_of
from dqlab.data.unavailable import UnavailableError
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, message_of
from dqlab.files import expanded, sha256_of
from dqlab.registry import Registry, configurable

DataSource = Callable[[Task, str, Progress], Found]

data_sources: Registry[DataSource] = Registry(
    "data_source",
    "Where a dataset comes from: `name` or `name:argument` in load_dataset.sources.",
    "load_dataset.sources",
    chosen_as="('{}',)",
    arguments=3,
)


def cache_path(task: Task) -> Path:
    """Where D4RL keeps the task's file.

    Raises:
        UnavailableError: D4RL has no such task.
    """
    if not task.file:
        raise UnavailableError(f"{task.name} is not a task of D4RL's")
    return cache_folder() / Path(task.file).name


@data_sources.register("d4rl_cache", source="D4RL 1.1, offline_env.py")
def d4rl_cache(task: Task, argument: str = "", progress: Progress = silent) -> Found:
    """The file that the D4RL package, or an earlier download, left in D4RL's cache.

    An excerpt, and one that dqlab collected or wrote from another format, does not count as D4RL's.
    """
    path = cache_path(task)
    if not path.exists():
        raise UnavailableError(f"{path} does not exist")
    mend = f"`dqlab data download {task.name} --force` replaces it."
    return Found(path, is_d4rls(path, task), mend=mend, downloaded=True)


@data_sources.register("d4rl_download", source="D4RL 1.1, infos.py (URLs)")
def d4rl_download(
    task: Task,
    argument: str = "",
    progress: Progress = silent,
    root: str = "",
    mirrors: tuple[str, ...] = (),
    mirrors_first: bool = False,
    sha256: str | None = None,
    timeout: float = 30.0,
) -> Found:
    """Download D4RL's file into D4RL's cache, from the first address that has it.

    After D4RL's server the 24 files of MuJoCo's robots are looked for in the Hugging Face data set `imone/D4RL`, whose
    rows are counted. A file's digest is kept beside it; what these two send later has to have the same.

    Args:
        task: which task's file.
        argument: the only mirror to ask, in place of all other addresses.
        progress: called with bytes done and in all.
        root: the same as `argument`, for every use of this source.
        mirrors: further addresses, in order: a base with D4RL's folders, or an address with `{file}` (path on D4RL's
            server) or `{name}` (the file's name).
        mirrors_first: ask them before D4RL's server.
        sha256: expected digest of the file, if you know it; D4RL publishes none.
        timeout: seconds without a byte after which an address is given up.
    """
    path, only = cache_path(task), argument or root
    others = [address_of(mirror, task.file) for mirror in ((mirrors,) if isinstance(mirrors, str) else mirrors)]
    own = homes(task)
    addresses = [*others, *own] if mirrors_first else [*own, *others]
    if only:
        addresses = [address_of(only, task.file)]
    refuse_if_planning(addresses[0])

    def check(address: str, part: Path) -> None:
        if address == second_home(task.file):
            check_rows(address, part, task)
        digest = sha256_of(part)
        if sha256 is None and address in own and (fault := differs(path, digest)):
            raise BrokenError(f"{address} sends another file than before: {fault}")
        record(path, digest)

    came_from, failed = fetch_from(
        addresses, path, sha256=sha256, magic=HDF5_MAGIC, check=check, progress=progress, timeout=timeout
    )
    return Found(path, is_d4rl=True, address=came_from, failed=failed)


def homes(task: Task) -> list[str]:
    """Addresses at which the task's file can be had: D4RL's server, and its second home where it has one."""
    return [address for address in (task.url, second_home(task.file)) if address]


def check_rows(address: str, path: Path, task: Task) -> None:
    """See that a file from elsewhere has as many rows as D4RL's.

    Raises:
        BrokenError: it has not, or is no file of D4RL's layout.
    """
    try:
        with D4RL().open(path) as columns:
            rows = len(columns)
    except DataError as error:
        raise BrokenError(f"{address} sends something else than {task.name}: {error}") from error
    if task.rows and rows != task.rows:
        raise BrokenError(f"{address} sends {rows:,} rows for {task.name}, which has {task.rows:,}.")


@data_sources.register("embedded", source="collected by gin/collect_walker2d.gin and gin/collect_hopper.gin")
def embedded(task: Task, argument: str = "", progress: Progress = silent) -> Found:
    """The small set that ships with dqlab for the task's robot: not D4RL's data, for trying things out."""
    name = f"{argument or task.robot + '-medium-expert-mini'}.hdf5"
    path = Path(str(files("dqlab.data") / "embedded" / name))
    if not path.exists():
        raise UnavailableError(f"dqlab ships no set called {name}")
    return Found(path, is_d4rl=False, stand_in=True)


@data_sources.register("file", source="formats of `dqlab list data_format`")
def file(task: Task, argument: str = "", progress: Progress = silent, is_d4rl: bool = False) -> Found:
    """A file of your own, as `file:PATH`, in the format of its suffix; set `file.is_d4rl` for a copy of D4RL's own."""
    if not argument:
        raise DataError("load_dataset.sources = 'file:PATH' names no path.")
    if not Path(argument).suffix and not expanded(argument).exists():
        raise DataError(f"There is no dataset at '{argument}' (load_dataset.sources = 'file:PATH').")
    chosen, path = format_of(argument)
    if chosen.suffixes and not path.exists():
        raise DataError(f"There is no dataset at '{path}' (load_dataset.sources = 'file:PATH').")
    return Found(path, is_d4rl, format=chosen)


def find_dataset(task: Task, sources: tuple[str, ...] | str, progress: Progress = silent) -> tuple[str, Found]:
    """The first of the sources that has the task's dataset, as it was named, and what it found; nothing is read.

    Raises:
        DataError: no source has it.
    """
    sources = _as_tuple(sources)
    _, found, skipped = _first_available(task, sources, progress)
    return sources[len(skipped)], found


@configurable("data")
def load_dataset(
    task: Task,
    sources: tuple[str, ...] = ("d4rl_cache", "d4rl_download"),
    reward_transform: str = "none",
    standardise_states: bool = False,
    memory_map: str = "auto",
    map_dir: str = "",
    action_bounds: str = "unit",
    progress: Progress = silent,
) -> Transitions:
    """The task's transitions from the first source that has them, on the CPU.

    Args:
        task: which task.
        sources: names from the `data_source` registry, in order of preference, each with an optional `:argument`.
        reward_transform: a name from the `reward_transform` registry.
        standardise_states: subtract the dataset's mean from states and divide by its deviation, as TD3+BC does; the
            policy then sees the environment's states likewise.
        memory_map: `auto` writes transitions that would not fit into memory to the disk once and maps them from there;
            `always` does so with all, `never` refuses them. Results are the same.
        map_dir: where to; the folder `mapped` in D4RL's cache if empty.
        action_bounds: `unit` takes actions as shares of the environment's bounds, in [-1, 1], and refuses others; `env`
            rescales them from the environment's own bounds to [-1, 1]; `as_is` takes whatever there is.
        progress: called with bytes done and in all during a download.

    Raises:
        DataError: no source has it (each one's reason is given), the file is damaged, its actions do not lie in the
            bounds, or there is no room for it.
        ConfigError: a choice is wrong, or the environment that has the bounds cannot be made.
    """
    transform = reward_transforms.get(reward_transform)
    check_choice(memory_map)
    actions = action_rule(task, action_bounds)
    name, found, skipped = _first_available(task, _as_tuple(sources), progress)
    origin = {**found.origin(), **actions.origin(), "source": name, "skipped": (*skipped, *found.failed)}
    view = View(task.episode_limit, standardise_states, actions=actions)
    stem = found.path.stem if found.path else name
    folder = expanded(map_dir) if map_dir else cache_folder() / "mapped"
    with found.open(task) as columns:
        contents = place(columns, view, memory_map, folder / map_name(stem, origin["digest"], view))
    return transitions_of(contents, transform, origin)


def absolute(source: str) -> str:
    """A data source as it is found from any folder."""
    name, colon, argument = source.partition(":")
    form, also, rest = argument.partition(":")
    if also and form in data_formats and data_formats.get(form).suffixes:
        name, argument = f"{name}:{form}", rest
    path = expanded(argument)
    return f"{name}:{path.resolve()}" if colon and path.exists() else source


def _as_tuple(sources: tuple[str, ...] | str) -> tuple[str, ...]:
    sources = (sources,) if isinstance(sources, str) else tuple(sources)
    if not sources:
        raise DataError("load_dataset.sources is empty. Name at least one source, for example ('embedded',).")
    return sources


def _first_available(task: Task, sources: tuple[str, ...], progress: Progress) -> tuple[str, Found, tuple[str, ...]]:
    """The first source's name and file, and why those before it had none."""
    reasons: list[str] = []
    for source in sources:
        name, _, argument = source.partition(":")
        try:
            return name, data_sources.get(name)(task, argument, progress), tuple(reasons)
        except UnavailableError as reason:
            reasons.append(f"{name}: {message_of(reason)}")
    copy = (
        f"Put your copy into D4RL's cache: dqlab data import FILE {task.name}; or name it"
        if task.file
        else "Name a file"
    )
    raise DataError(
        f"No dataset for {task.name}. " + "; ".join(reasons) + f". {copy}: "
        "--set \"load_dataset.sources=('file:PATH',)\"."
    )
