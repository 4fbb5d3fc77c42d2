"""What every format of datasets is made of: columns, checks of them, and whose fault it is where one cannot be read."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DataError, DqlabError, first_line, lacks_memory, printable_names
from dqlab.files import expanded, sha256_of
from dqlab.machine import available_memory, forked, in_words

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"  # what every HDF5 file begins with
PROVENANCE, CONVERTED = "provenance", "converted_from"  # metadata: who made a dataset, and of which other one
ENVIRONMENT = "environment"  # metadata: which one it was collected in, its id first
COLLECTED = "Collected by dqlab"  # what the former begins with


class UnreadError(DataError):
    """A dataset could not be read just now, or not on this machine; that says nothing of the dataset."""


class DamagedError(DataError):
    """The bytes of a dataset are not what their format prescribes; a fresh copy may be."""


BUSY = {errno.EAGAIN, errno.EBUSY, errno.ETXTBSY}
# of the machine, its disks and its permissions, which say nothing of a file
MACHINES = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}


def reading_error(where: str, what: str, error: BaseException, mend: str = "") -> DataError:
    """What is to be raised where reading fails: the fault is the file's unless the error says whose else it is.

    Messages call the dataset `where`; if it is damaged, `what` says what it is, `mend` what to do.
    """
    why = " ".join(first_line(error)[:200].split())  # what a file says of itself may be endless
    if lacks_memory(error):
        return UnreadError(f"{where} cannot be read: there is not enough memory for what it claims to hold ({why}).")
    if "already open for" in why:  # HDF5 marks files in its latest format until they are closed
        return UnreadError(f"{where} is marked as being written: it is in use, or its writer was killed ({why}).")
    if isinstance(error, OSError) and error.errno in BUSY:
        return UnreadError(f"{where} is in use: another process has it open, and may write it. Wait until it is done.")
    if isinstance(error, OSError) and error.errno in MACHINES:
        return UnreadError(f"{where} cannot be read: {os.strerror(error.errno)}.")
    if isinstance(error, ImportError):
        return UnreadError(f"{where} needs a module that cannot be imported here: {why}. Install it, or use --plugin.")
    return DamagedError(f"{where} {what} ({why}). {mend}".rstrip())


@contextmanager
def reading_errors(where: object, what: str) -> Iterator[None]:
    """Within this, whatever libraries raise becomes what `reading_error` makes of it."""
    try:
        yield
    except DqlabError:
        raise
    except Exception as error:
        raise reading_error(str(where), what, error) from error


def check_readable(path: Path) -> None:
    """See that a dataset's file is there, and that no other process writes it; a DataError where not."""
    if not path.is_file():
        raise DataError(f"There is no dataset at {path}. Check the path.")
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # HDF5's library locks files while they are written
        except BlockingIOError as error:
            raise reading_error(str(path), "", error) from error


LEAST_SECONDS, SLOWEST = 20, 2_000_000  # of a processor, and bytes a second: reading that takes longer has no end


def read_in_child(where: object, size: int, read: Callable[[], object]) -> None:
    """Let a child read so many bytes, and what it reads go: a DamagedError where it does not come to an end.

    HDF5's library crashes on some damaged files, and in others looks for something without end (2.0; both were seen).
    An error that the child meets is met again by whoever reads then.
    """
    if died := forked(read, seconds=LEAST_SECONDS + size // SLOWEST):
        raise DamagedError(f"{where} is damaged: a process that read it ended by {died}.")


def check_room(where: object, needed: int) -> None:
    """See that there is memory for that many bytes; an UnreadError where there is not."""
    if needed > (free := available_memory()):
        room = f"({in_words(needed)}, {in_words(free)} are free)"
        raise UnreadError(f"{where} cannot be read: there is not enough memory for what it claims to hold {room}.")


@contextmanager
def write_errors(where: object, advice: str = "Free some space or choose another place.") -> Iterator[None]:
    """Within this, what the system cannot write becomes one message, with what to do about it."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises both, at length
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else first_line(error)
        raise DataError(f"Cannot write {where}: {why}. {advice}".rstrip()) from error


Column = NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """The rows of a dataset, in order, episode after episode. Shapes and dtypes are checked, values are not."""

    observations: Column  # (n, S)
    actions: Column  # (n, A)
    rewards: Column  # (n,)
    terminals: Column  # (n,): the environment ended the episode here
    timeouts: Column | None = None  # (n,): the episode was cut here; None where that is not recorded
    # (n, S): what followed each row, also where an episode was cut; None where it is the next row's, as in D4RL's files
    next_observations: Column | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)  # what is said of the set, by name
    # further columns (n, ...), such as D4RL's `infos/qpos`, which formats write that have a place for them
    extras: Mapping[str, Column] = field(default_factory=dict)
    where: str = "the dataset"  # what messages call it, usually its path
    # (n,): 0 where the value of what follows is not bootstrapped although the episode may go on, as in a state in which
    # the task is solved, else 1; None where terminals alone say so
    masks: Column | None = None

    def __len__(self) -> int:
        return int(self.observations.shape[0])


class Format(ABC):
    """A file format.

    Attributes:
        suffixes: of its files, such as `.hdf5`; empty where a dataset is not a file.
    """

    suffixes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, path: Path) -> Columns:
        """All rows; a DataError where they are missing, damaged, of another format, or of wrong shapes or dtypes."""

    def place(self, path: Path) -> Path:
        """The file or folder that holds the dataset, or would; a DataError where the format has none of that name."""
        return path

    def digest(self, path: Path) -> str:
        """SHA-256 of the file or folder at `place`, hexadecimal; of names and contents where it is a folder."""
        return file_digest(self.place(path))

    def source(self, path: Path) -> str:
        """How `load_dataset.sources` names the dataset."""
        return f"file:{path}"

    def write(self, path: Path, columns: Columns) -> None:
        """Write a dataset, whole or not at all; a DataError where it cannot, a ConfigError where it is only read."""
        raise ConfigError(f"{path}: {type(self).__name__} is a format that is only read. Choose another one.")


def whole_columns(columns: Columns) -> dict[str, Any]:
    """The columns that there are, by name."""
    return {name: column for name in COLUMN_NAMES if (column := getattr(columns, name)) is not None}


def file_digest(path: Path, files: Iterable[Path] = ()) -> str:
    """SHA-256 of a file, or of those in a folder (all unless `files` are named) by relative names; hexadecimal."""
    if not path.is_dir():
        return sha256_of(path)
    files = files or sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


data_formats: Registry[type[Format]] = Registry(
    "data_format", "A file format of datasets: `dqlab data convert`, and `file:PATH` as a source.", arguments=0
)


def format_of(dataset: str) -> tuple[Format, Path]:
    """The format of a dataset, `FORMAT:REST` or a path with its suffix, and what it opens; a ConfigError for none."""
    name, colon, rest = dataset.partition(":")
    if colon and name in data_formats:
        return data_formats.get(name)(), expanded(rest)
    path = expanded(dataset)
    for entry in data_formats:
        if path.suffix.lower() in entry.item.suffixes:
            return entry.item(), path
    known = ", ".join(suffix for entry in data_formats for suffix in entry.item.suffixes)
    ways = f"Known: {known}; or FORMAT:PATH, with a format of `dqlab list data_format`"
    raise ConfigError(f"No format of datasets has the suffix of '{dataset}'. {ways}.")


MATRIX_COLUMNS = ("observations", "actions", "next_observations")
REQUIRED_COLUMNS = ("observations", "actions", "rewards", "terminals")
COLUMN_NAMES = (*REQUIRED_COLUMNS, "timeouts", "next_observations", "masks")


def checked_columns(where: str, arrays: Mapping[str, Column], metadata: Mapping[str, str] | None = None) -> Columns:
    """Columns by D4RL's names, their shapes and dtypes checked; values are not looked at.

    Of `arrays`, `timeouts`, `next_observations` and `masks` may be absent; others are ignored. `where` is what messages
    call the dataset. A DataError where a column is missing, shapes disagree, or a dtype is not of real numbers.
    """
    check_names(where, arrays)
    known: dict[str, Any] = {}
    for name in (name for name in COLUMN_NAMES if name in arrays):
        column, wide = arrays[name], name in MATRIX_COLUMNS
        if not wide and column.shape[1:] == (1,):
            column = column.reshape(-1)
        if column.ndim != (2 if wide else 1) or 0 in column.shape[1:]:
            expected = "(rows, width)" if wide else "(rows,)"
            raise DataError(f"{where}: '{name}' has shape {column.shape}, expected {expected}.")
        if column.dtype.kind not in "biuf":
            raise DataError(f"{where}: '{name}' has dtype {column.dtype}, expected numbers.")
        known[name] = column
        if len(column) != (rows := len(known["observations"])):
            raise DataError(f"{where}: '{name}' has {len(column)} rows, 'observations' has {rows}.")
    shape, following = known["observations"].shape, known.get("next_observations")
    if following is not None and following.shape != shape:
        raise DataError(f"{where}: 'next_observations' has shape {following.shape}, 'observations' {shape}.")
    if rows < (2 if following is None else 1):
        raise DataError(f"{where}: {rows} row(s) make no transition.")
    return Columns(**known, metadata=metadata or {}, where=where)


def check_names(where: str, names: Collection[str]) -> None:
    """See that all columns are there that every dataset has; a DataError says which one is not, and what is there."""
    if missing := [name for name in REQUIRED_COLUMNS if name not in names]:
        there = printable_names(names) or "nothing"
        raise DataError(f"{where} has no '{missing[0]}' (it has: {there}); not a dataset in D4RL's layout.")


def check_task(columns: Columns, task: Task) -> None:
    """See that a dataset may be the task's; a DataError where it is another's."""
    for said in signs_of_another_task(columns, task):
        raise DataError(f"{columns.where}: {said}. Another task's file?")


def signs_of_another_task(columns: Columns, task: Task) -> Iterator[str]:
    """Widths that are not those of its states and actions; of D4RL's robots, another one in the metadata."""
    for name, wanted in (("observations", task.state_dim), ("actions", task.action_dim)):
        if (width := getattr(columns, name).shape[1]) != wanted:
            yield f"'{name}' is {width} wide, {task.name}'s is {wanted}"
    known = {_environment(entry.item.env_id) for entry in tasks if entry.item.file}
    recorded = _environment(columns.metadata.get(ENVIRONMENT, ""))
    own = _environment(str(task.env_kwargs.get("env_id", task.env_id)))
    if recorded != own and {recorded, own} <= known:
        yield f"its metadata say that it is of {recorded}, {task.name}'s environment is {own}"


def _environment(env_id: str) -> str:
    """`Walker2d` of `Walker2d-v4, physics ...`, of `MODULE:NAMESPACE/Walker2d-v4`, ..."""
    return env_id.split(",")[0].split(" ")[0].rpartition(":")[2].rpartition("/")[2].partition("-v")[0]


def float_column(columns: Columns, name: str) -> NDArray[np.float32]:
    """A column (n, ...) of real numbers as float32, all finite; a DataError names the first row where one is not."""
    with np.errstate(over="ignore"):
        column: NDArray[np.float32] = getattr(columns, name).astype(np.float32, copy=False)
    if not (finite := np.isfinite(column)).all():
        where = f"{columns.where}: '{name}'"
        row = int(np.argmin(finite.reshape(len(column), -1).all(axis=1)))
        raise DataError(f"{where} has a NaN or infinite value in row {row}. Repair or drop such rows.")
    return column


def boolean_column(columns: Columns, name: str) -> NDArray[np.bool_]:
    """A column (n,) as booleans, whether a number is other than 0; a DataError names a row that is not finite."""
    return np.asarray(float_column(columns, name) != 0)


def digest_of_columns(columns: Columns) -> str:
    """SHA-256 of the values of the columns that there are, one after the other, hexadecimal."""
    sha = hashlib.sha256()
    for column in whole_columns(columns).values():
        sha.update(np.ascontiguousarray(column).tobytes())
    return sha.hexdigest()
