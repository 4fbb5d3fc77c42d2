"""One attempt at a pack on a node of a Ray cluster: fetched from the driver's machine, run, sent back as it goes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import dqlab
from dqlab.ablation.engines.base import DIED, STOPPED, Job
from dqlab.ablation.engines.local import AttemptOutcome, Event, job_environment, run_attempt
from dqlab.config.gin_syntax import parse_bindings
from dqlab.envs import tasks
from dqlab.errors import ConfigError
from dqlab.files import atomic_path, sha256_of
from dqlab.tracking.run_folder import LOCK

GROWING = {".jsonl", ".log"}
TRIES = 5
STAGE = ".incoming"
Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and size."""


def scan_folder(folder: Path) -> dict[str, Stamp]:
    """The files of a folder, by their paths in it; without locks and what is hidden (temporary files)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.name == LOCK or any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        with suppress(FileNotFoundError):  # deleted since it was listed
            status = path.stat()
            found[name.as_posix()] = (status.st_mtime_ns, status.st_size)
    return found


def is_append_only(name: str) -> bool:
    """Whether a file is only appended to."""
    return Path(name).suffix in GROWING


class Sender:
    """Sends what has changed in a folder, as one set.

    Args:
        folder: the folder; what is in it now need not be sent.
        stage: `(name, content)` takes a file's new content to the other side, but not yet into its place.
        commit: `(names in order, names that are gone)` puts all that was staged into place.
    """

    def __init__(
        self,
        folder: Path,
        stage: Callable[[str, bytes], None],
        commit: Callable[[Sequence[str], Sequence[str]], None],
    ) -> None:
        self._folder, self._stage, self._commit = folder, stage, commit
        self._sent = scan_folder(folder)
        self._staged: list[str] = []

    def send(self) -> bool:
        """Whether a set could be taken: not where the folder has changed again and again; the next call may."""
        for _ in range(TRIES):
            try:
                if not self._stage_changed(scan_folder(self._folder), growing=False):
                    break
            except FileNotFoundError:  # deleted since it was listed
                continue
        else:
            return False
        now = scan_folder(self._folder)
        self._stage_changed(now, growing=True)
        gone = [name for name in self._sent if name not in now]
        if self._staged or gone:
            wanted = {name for name in self._staged if name in now}
            self._commit(sorted(wanted, key=lambda name: (not is_append_only(name), self._sent[name], name)), gone)
        self._staged, self._sent = [], {name: stamp for name, stamp in self._sent.items() if name in now}
        return True

    def _stage_changed(self, now: dict[str, Stamp], growing: bool) -> list[str]:
        """Stage the changed files of one sort; returns their names."""
        changed = [name for name in now if is_append_only(name) == growing and self._sent.get(name) != now[name]]
        for name in changed:
            self._stage(name, (self._folder / name).read_bytes())
            self._sent[name] = now[name]
            self._staged.append(name)
        return changed


class Receiver:
    """The other side: puts files into a folder, each set whole, every file atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._incoming = folder, folder / STAGE
        self.clear()

    def clear(self) -> None:
        """Forget what was staged and never put into place."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def stage(self, name: str, content: bytes) -> None:
        """Keep a file's new content."""
        path = self._inside(self._incoming, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def commit(self, names: Sequence[str], gone: Sequence[str]) -> None:
        """Put what was staged into place, in this order, and delete what is gone."""
        for name in names:
            place = self._inside(self._folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._incoming / name, place)
        for name in gone:
            self._inside(self._folder, name).unlink(missing_ok=True)
        self.clear()

    @staticmethod
    def _inside(folder: Path, name: str) -> Path:
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{name} is no file inside {folder}")
        return path


class SupersededError(Exception):
    """Another attempt at the job has begun."""


class CheckpointStore:
    """An actor's class; `folders` are those of the jobs, by id."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._receivers = {job: Receiver(folder) for job, folder in folders.items()}
        self._attempts: Counter[str] = Counter()
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._begun: set[str] = set()
        self._asked = 0

    def begin(self, job: str) -> int:
        """The number of a new attempt at a job: earlier ones are not listened to any more."""
        self._attempts[job] += 1
        self._begun.discard(job)
        self._receivers[job].clear()
        return self._attempts[job]

    def ask(self, times: int) -> None:
        """Have jobs asked to stop (1), or killed (2)."""
        self._asked = times

    def begun(self) -> set[str]:
        """The jobs whose current attempt runs on some node, or ran."""
        return self._begun

    def drain(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Events since the last call, in order: job and event."""
        events, self._events = self._events, []
        return events

    def asked(self, job: str, attempt: int) -> int:
        """What `ask` said last."""
        self._check(job, attempt)
        self._begun.add(job)
        return self._asked

    def names(self, job: str, attempt: int) -> list[str]:
        """The files of a job's folder."""
        self._check(job, attempt)
        return list(scan_folder(self._folders[job]))

    def fetch(self, job: str, attempt: int, name: str) -> bytes:
        """A file of a job's folder."""
        self._check(job, attempt)
        return (self._folders[job] / name).read_bytes()

    def hear(self, job: str, attempt: int, event: Mapping[str, Any]) -> None:
        """Keep an event for the driver."""
        self._check(job, attempt)
        self._events.append((job, event))

    def stage(self, job: str, attempt: int, name: str, content: bytes) -> None:
        """Keep a file's new content."""
        self._check(job, attempt)
        self._receivers[job].stage(name, content)

    def commit(self, job: str, attempt: int, names: Sequence[str], gone: Sequence[str]) -> None:
        """Put what was staged into the job's folder."""
        self._check(job, attempt)
        self._receivers[job].commit(names, gone)

    def _check(self, job: str, attempt: int) -> None:
        if attempt != self._attempts[job]:
            raise SupersededError(f"attempt {attempt} at {job} was given up; {self._attempts[job]} is under way")


ASK_EVERY = 1.0
"""Seconds between two questions whether to stop."""
KEPT_AT = {"saved", "evaluated", "finished", "failed"}
"""Events at which the folder is sent."""


@dataclass(frozen=True)
class Input:
    """A dataset on its way to a node.

    Attributes:
        name: of the file.
        digest: SHA-256 of its bytes; nodes keep it under that.
        content: a list with a reference to its bytes (in a list, so that Ray fetches them only when told to).
    """

    name: str
    digest: str
    content: Sequence[Any]

    def on_this_node(self) -> Path:
        """The file, fetched if it is not here yet."""
        path = Path(tempfile.gettempdir()) / "dqlab-inputs" / self.digest / self.name
        if not path.exists():
            import ray

            content = ray.get(self.content[0])
            with atomic_path(path) as temporary:
                content.tofile(temporary)
        return path


@dataclass(frozen=True)
class FileSet:
    """What travels to a node.

    Attributes:
        job: the pack.
        number: of the attempt.
        inputs: its datasets.
        as_cache: whether they are found as D4RL's own are, in its cache; otherwise `load_dataset.sources` names them.
        variables: of the driver's environment.
    """

    job: Job
    number: int
    inputs: Sequence[Input]
    as_cache: bool
    variables: Mapping[str, str]

    def settings(self, cache: Path) -> tuple[dict[str, str], list[str]]:
        """Environment variables and gin bindings by which the process finds its datasets; `cache` is to be D4RL's."""
        paths = [item.on_this_node() for item in self.inputs]
        if not paths:
            return {}, []
        if not self.as_cache:
            form = f"{self.job.format}:" if self.job.format else ""
            return {}, [f"load_dataset.sources={tuple(f'file:{form}{path}' for path in paths)!r}"]
        cache.mkdir()
        for path in paths:
            (cache / path.name).symlink_to(path)
        return {"D4RL_DATASET_DIR": str(cache)}, []


class Line:
    """The line to the vault, for one attempt."""

    def __init__(self, vault: Any, job: str, number: int) -> None:
        self._vault, self._job, self._number = vault, job, number
        self._asked, self._asked_at = 0, float("-inf")

    def __call__(self, method: str, *args: Any) -> Any:
        """Call a method of the vault and wait for its answer.

        Raises:
            SupersededError: another attempt has begun.
        """
        import ray

        return ray.get(getattr(self._vault, method).remote(self._job, self._number, *args))

    def asked(self) -> int:
        """How often the job has been asked to stop."""
        if time.monotonic() > self._asked_at + ASK_EVERY:
            self._asked, self._asked_at = self("asked"), time.monotonic()
        return self._asked

    def fetch(self, folder: Path) -> None:
        """Fetch the job's folder as the driver's machine has it."""
        for name in self("names"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self("fetch", name))


def run_parcel(parcel: FileSet, vault: Any) -> AttemptOutcome:
    """Run a pack's process in a temporary folder, and keep the driver's copy of it up to date."""
    line = Line(vault, parcel.job.id, parcel.number)
    with tempfile.TemporaryDirectory(prefix="dqlab-pack-", ignore_cleanup_errors=True) as place:
        try:
            return AttemptOutcome(STOPPED, "not started") if line.asked() else _run(parcel, line, Path(place))
        except SupersededError as error:
            return AttemptOutcome(DIED, str(error))


def _run(parcel: FileSet, line: Line, place: Path) -> AttemptOutcome:
    job, folder = parcel.job, place / "pack"
    folder.mkdir()
    line.fetch(folder)
    sender = Sender(folder, partial(line, "stage"), partial(line, "commit"))
    found, bindings = parcel.settings(place / "d4rl")

    def hear(event: Event) -> None:
        if event.get("event") in KEPT_AT:
            sender.send()
        line("hear", event)

    variables = {**job_environment(job.threads, None if job.gpu_memory else ""), **parcel.variables, **found}
    outcome = run_attempt(job.command(folder, bindings), folder / job.log.name, variables, hear, line.asked)
    sender.send()
    return outcome


IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)|\.env_id\s*=\s*'(\w+)[\w.]*:", re.MULTILINE)
"""Modules that a pack's configuration imports, or that register its environment."""
CARRIED = "DQLAB_"


def driver_variables() -> dict[str, str]:
    """The driver's environment variables that packs see everywhere."""
    return {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}


def modules_of(jobs: Iterable[Job]) -> list[str]:
    """dqlab's folder, and the packages or single files of the plugins that the packs import."""
    named = {name for job in jobs for pair in IMPORT.findall((job.folder / "pack.gin").read_text()) for name in pair}
    found = (_source_of(name) for name in sorted(named - {dqlab.__name__, ""}))
    return [str(Path(dqlab.__file__).parent), *(str(path) for path in found if path is not None)]


def _source_of(name: str) -> Path | None:
    """A top-level package's folder, or a module's file; None where there is neither (the worker will say so)."""
    spec = find_spec(name)
    if spec is None:
        return None
    folder = next(iter(spec.submodule_search_locations or ()), None)
    if folder is not None:
        return Path(folder)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def check_files(jobs: Iterable[Job]) -> None:
    """See that every dataset is a file, as travels to nodes.

    Raises:
        ConfigError: one is a folder.
    """
    for path in (path for job in jobs for path in job.inputs.values() if path.is_dir()):
        raise ConfigError(
            f"The dataset in {path} is a folder, which Ray's nodes are not sent. Write it as a file (`dqlab data "
            "convert FROM FILE.hdf5`) and set load_dataset.sources=('file:FILE.hdf5',), or choose another Grid.engine."
        )


class Inputs:
    """Puts every dataset where nodes can fetch it, once, however many packs read it."""

    def __init__(self, put: Callable[[Any], Any]) -> None:
        self._put = put
        self._known: dict[Path, Input] = {}
        self._references: dict[str, Any] = {}

    def of(self, job: Job) -> list[Input]:
        """The datasets of a job."""
        return [self._input(path.resolve(), path.name) for path in dict.fromkeys(job.inputs.values())]

    def _input(self, path: Path, name: str) -> Input:
        if path not in self._known:
            digest = sha256_of(path)
            if digest not in self._references:
                self._references[digest] = self._put(np.fromfile(path, np.uint8))
            self._known[path] = Input(name, digest, [self._references[digest]])
        return self._known[path]


def reads_cache(job: Job) -> bool:
    """Whether a job finds its datasets in D4RL's cache, under D4RL's names."""
    if not job.inputs:
        return True
    from dqlab.data.sources import cache_path, d4rl_cache, data_sources

    bound = parse_bindings((job.folder / "pack.gin").read_text())
    sources = [value for name, value in bound.items() if name.endswith("load_dataset.sources")]
    cache = next(entry.name for entry in data_sources if entry.item is d4rl_cache)
    asked = not sources or cache in np.atleast_1d(np.array(sources[0], dtype=object))
    return bool(asked) and all(path.name == cache_path(tasks.get(task)).name for task, path in job.inputs.items())
