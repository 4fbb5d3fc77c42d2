"""What a mirror remembers between two sendings: a JSON file that belongs to one MLflow store."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from dqlab.errors import RunError, masked
from dqlab.files import write_text
from dqlab.tracking.records import REMEDIES, MemoryRecord, damage_message, read_record
from dqlab.tracking.stores import store_path


class Memory:
    """A JSON file beside what is sent; what it says of another store, or of another grid's run, is forgotten.

    Args:
        path: the file.
        uri: MLflow's tracking URI.
        empty: what is remembered of a store that has got nothing yet.
        grid: id of the grid's run, of what is remembered below it.

    Raises:
        RunError: the file is damaged.

    Attributes:
        state: what is remembered.
        forgotten: what was remembered of another store.
    """

    def __init__(self, path: Path, uri: str, empty: Mapping[str, Any], grid: str = "") -> None:
        self.path = path
        known: dict[str, Any] = {**read_record(path, MemoryRecord)} if path.exists() else {}
        for name in known.keys() & empty.keys():
            if type(known[name]) is not type(empty[name]):
                raise damage_message(path, ValueError(f"{name} is of another kind"), REMEDIES[MemoryRecord])
        place = {"uri": masked(uri), "grid": grid}
        same = masked(known.get("uri", "")) == place["uri"] and known.get("grid", grid) == grid
        self.state = {**empty, **(known if same else {}), **place}
        self.forgotten = {} if same else known

    def save(self) -> None:
        """Write the state into the file."""
        write_text(self.path, json.dumps(self.state, indent=1))


UPLOADS = ("log_artifact", "log_text")
WRITES = (
    *UPLOADS,
    "log_batch",
    "log_metric",
    "set_tag",
    "delete_tag",
    "update_run",
    "set_terminated",
)


class DeletedRunGuard:
    """MLflow's client, whose writes to deleted runs do nothing; each such run is told of once.

    Args:
        client: MLflow's.
        memory: where deleted runs are remembered.
    """

    def __init__(self, client: Any, memory: Memory) -> None:
        self._client, self._memory = client, memory

    def __getattr__(self, name: str) -> Any:
        if name not in WRITES:
            return getattr(self._client, name)

        def write(run: str, *args: Any, **kwargs: Any) -> None:
            if run not in self._memory.state.get("deleted", []):
                self._write(name, run, *args, **kwargs)

        return write

    def _check_place(self, run: str) -> None:
        """A store says itself where files go; a stranger's might say: to a server, or over the user's own files."""
        uri = str(self._client.tracking_uri)
        store = store_path(uri)
        if store is None or os.environ.get("MLFLOW_TRACKING_URI"):
            return
        place = str(self._client.get_run(run).info.artifact_uri)
        real = os.path.realpath(url2pathname(place.removeprefix("file://")))
        folders = (store.parent, self._memory.path.parent.parent)
        if not any(real.startswith(os.path.realpath(folder / "mlartifacts") + os.sep) for folder in folders):
            raise RunError(
                f"{masked(uri)} has files put into {masked(place)}, which nothing but the store itself says. If that "
                "is where they belong, set MLFLOW_TRACKING_URI to the store's address (dqlab sync: or --to)."
            )

    def _write(self, name: str, run: str, *args: Any, **kwargs: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            if name in UPLOADS:
                self._check_place(run)
            getattr(self._client, name)(run, *args, **kwargs)
        except MlflowException:
            if not self._is_deleted(run):
                raise
            self._memory.state.setdefault("deleted", []).append(run)
            self._memory.save()
            again = f"to record everything anew, delete {self._memory.path}"
            print(f"run {run} was deleted in MLflow: nothing more is sent to it; {again}", flush=True)

    def _is_deleted(self, run: str) -> bool:
        """Marked as deleted, or gone for good; a store that does not even have the top run is another one."""
        stage, top = self._stage(run), str(self._memory.state.get("run") or self._memory.state.get("parent"))
        return stage == "deleted" or (not stage and run != top and bool(self._stage(top)))

    def _stage(self, run: str) -> str:
        """MLflow's word for where a run is in its life; empty where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""


@contextmanager
def only_mirror(run: Path) -> Any:
    """Hold the right to send a run's records: one mirror at a time."""
    with (run / "mlflow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class RunSyncState(Memory):
    """What has been sent of a run, as RUN/mlflow.json remembers it."""

    def __init__(self, run: Path, uri: str) -> None:
        empty: dict[str, Any] = {"parent": "", "children": {}, "records": {}, "status": "RUNNING", "finished": False}
        super().__init__(run / "mlflow.json", uri, empty)
