"""Runs that somebody has deleted in MLflow's pages: nothing more is written to them, and all others go on."""

from __future__ import annotations

import os
from typing import Any
from urllib.request import url2pathname

from dqlab.errors import RunError
from dqlab.printing import masked
from dqlab.tracking.memory import Memory
from dqlab.tracking.stores import store_path

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


class Lasting:
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
