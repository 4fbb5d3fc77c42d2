"""OGBench's files, as a data format and as a data source: rewards are made for a task when a file is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data import download
from dqlab.data.download import Progress, UnavailableError, download_from, no_progress
from dqlab.data.formats import base
from dqlab.data.formats.arrays import read_archive, write_archive
from dqlab.data.formats.base import COLLECTED, PROVENANCE, Columns, Format, data_formats
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.envs import make_env, tasks
from dqlab.envs.tasks import BENCHMARK, OGBENCH, Task, dataset_of, environment_of
from dqlab.errors import DataError, nearest
from dqlab.files import expanded

Arrays = dict[str, NDArray[Any]]
STORED = ("observations", "actions", "terminals", "qpos", "button_states")  # what is read: nothing is made of `qvel`
KEPT = {"qpos": np.float32, "qvel": np.float32, "button_states": np.int64}  # of collected sets' extras `infos/...`
SPREAD = 3  # times the memory of its rows that a set takes until transitions are made of it


@data_formats.register(BENCHMARK, source=OGBENCH["source"], cites=("park2025ogbench",))
class OGBenchFormat(Format):
    """OGBench's `.npz` for one of its tasks: the path is FOLDER/TASK, or TASK for `~/.ogbench/data/TASK`.

    Files have no rewards: ogbench makes them, and masks, of positions and button states, as it does at loading. A row
    at which an episode of the file ends is a cut; what is solved ends no episode, but bootstraps nothing. Where FOLDER
    has no `DATASET.npz`, but `DATASET-000.npz` and more, as sets of 100M transitions are stored, all of them are read.
    """

    def read(self, path: Path) -> Columns:
        task, files = task_named(path), self.files(path)
        parts, notes = list[Arrays](), dict[str, str]()
        for file in files:
            arrays, notes = read_archive(file, STORED)
            if missing := [name for name in STORED[:4] if name not in arrays]:
                there = ", ".join(arrays) or "nothing"
                raise DataError(f"{file} has no '{missing[0]}' (it has: {there}); not a file of OGBench's.")
            rows = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
            if len(set(rows.values())) > 1 or not rows["observations"]:
                there = ", ".join(f"{count} {name}" for name, count in rows.items())
                raise DataError(f"{file}: its arrays have {there}.")
            arrays["terminals"] = arrays["terminals"].astype(bool)
            arrays["terminals"][-1] = True  # the last row of a file ends an episode
            parts.append(arrays)
            size = sum(array.nbytes for array in parts[0].values())
            base.check_room(self.place(path), size * (SPREAD * len(files) - len(parts)))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return _columns(str(self.place(path)), task, joined, notes)

    def place(self, path: Path) -> Path:
        task_named(path)
        files = self.files(path)
        return files[0] if len(files) == 1 else files[0].parent

    def files(self, path: Path) -> list[Path]:
        """The file of a data set, or those that it is split into, whether they are there or not."""
        folder = path.parent if len(path.parts) > 1 else expanded("~/.ogbench/data")  # ogbench's own
        name = dataset_of(path.name)
        whole = folder / f"{name}.npz"
        split = sorted(file for file in folder.glob(f"{name}-*.npz") if not file.stem.endswith("-val"))
        return [whole] if whole.exists() or not split else split

    def digest(self, path: Path) -> str:
        return base.file_digest(self.place(path), self.files(path))

    def source(self, path: Path) -> str:
        return f"{BENCHMARK}:{self.files(path)[0].parent}"

    def write(self, path: Path, columns: Columns) -> None:
        """Write rows as OGBench does, which needs positions; rewards and next observations have no place."""
        if "infos/qpos" not in columns.extras:
            raise DataError(f"{columns.where} has no 'infos/qpos': OGBench's rewards are made of positions.")
        if columns.terminals.any():
            where = f"{columns.where} has episodes that end where the task is solved"
            raise DataError(f"{where}: OGBench's files have the state that follows, too, which these rows lack.")
        ends = np.zeros(len(columns), bool) if columns.timeouts is None else columns.timeouts.astype(bool)
        arrays = {name: getattr(columns, name).astype(np.float32) for name in ("observations", "actions")}
        own = {name: columns.extras.get(f"infos/{name}") for name in KEPT}
        kept = {name: extra.astype(KEPT[name]) for name, extra in own.items() if extra is not None}
        write_archive(self.place(path), {**arrays, "terminals": ends, **kept}, columns.metadata)


def task_named(path: Path) -> Task:
    """The task that a path of this format ends with; a DataError where OGBench has no such task."""
    if path.name not in (own := ogbench_names()):
        hint = nearest(path.name, own)
        raise DataError(f"'{path.name}' is no task of OGBench's: its data are named FOLDER/TASK. {hint}")
    return tasks.get(path.name)


def ogbench_names() -> list[str]:
    """The names of OGBench's tasks."""
    return [entry.name for entry in tasks if entry.item.benchmark == BENCHMARK]


def _columns(where: str, task: Task, arrays: Arrays, notes: dict[str, str]) -> Columns:
    """The rows with the task's rewards: r(s) of the state in each row, and a mask of 0 where it is solved."""
    env = make_env(task)
    from ogbench.relabel_utils import relabel_dataset

    made = {name: array for name, array in arrays.items() if name in ("qpos", "button_states")}
    try:
        relabel_dataset(environment_of(task.name), env, made)
    except (IndexError, KeyError, ValueError) as error:
        why = f"ogbench cannot make rewards of it for {task.name} ({error})"
        raise DataError(f"{where}: {why}. Another task's file?") from error
    finally:
        env.close()
    ends = {"terminals": np.zeros(len(arrays["terminals"]), bool), "timeouts": arrays["terminals"]}
    return base.checked_columns(where, {**arrays, **ends, "rewards": made["rewards"], "masks": made["masks"]}, notes)


@data_sources.register(BENCHMARK, source=OGBENCH["source"], cites=("park2025ogbench",))
def ogbench(
    task: Task,
    argument: str = "",
    progress: Progress = no_progress,
    mirrors: tuple[str, ...] = (),
    timeout: float = 30.0,
) -> LocatedDataset:
    """OGBench's file of a task, from `~/.ogbench/data`, where the ogbench package has it too; else it is fetched there.

    OGBench's server is asked first, then the Hugging Face data set `zhouzypaul/ogbench_datasets`. Sets of 100M
    transitions are not fetched.

    Args:
        task: which task's file.
        argument: a folder in place of `~/.ogbench/data`; nothing is fetched into it.
        progress: called with bytes done and in all.
        mirrors: addresses to be asked after these: a base, or with `{file}` for the file's name.
        timeout: seconds without a byte after which an address is given up.
    """
    if task.benchmark != BENCHMARK:
        raise UnavailableError(f"{task.name} is not a task of OGBench's")
    chosen, path = OGBenchFormat(), expanded(argument).absolute() / task.name if argument else Path(task.name)
    files = chosen.files(path)
    mend = f"Delete it; then `dqlab data download {task.name}` fetches it."
    found = LocatedDataset(path, is_d4rl=False, format=chosen, downloaded=len(files) == 1, mend=mend)
    if all(file.exists() for file in files):
        return replace(found, note=_note(files, task))
    if argument:
        raise UnavailableError(f"{files[0]} does not exist")
    name = files[0].name
    own = [download.address_of(OGBENCH["server"], name), download.second_address(OGBENCH["second_home"], name)]
    addresses = [*own, *download.mirror_addresses(mirrors, name)]
    fetched = download_from(addresses, files[0], own=own, magic=b"PK", progress=progress, timeout=timeout)
    return replace(found, **fetched, note="")


def _note(files: list[Path], task: Task) -> str:
    """What must stand beside scores that come of files that lie there; empty for the whole of OGBench's own."""
    if len(files) > 1:
        return f"{len(files)} files of a larger set"
    try:
        arrays, notes = read_archive(files[0], ("terminals",))
    except DataError:  # damaged: whoever reads the rows says so
        return ""
    own = len(arrays.get("terminals", ())) == task.rows and not notes.get(PROVENANCE, "").startswith(COLLECTED)
    return "" if own else "not OGBench's data"
