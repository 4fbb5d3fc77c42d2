"""Runs that somebody has deleted in MLflow's pages: nothing more is written to them, and all others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dqlab.tracking.memory import Memory

WRITES = (
    "log_batch",
    "log_artifact",
    "log_text",
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
                self._write(getattr(self._client, name), run, *args, **kwargs)

        return write

    def _write(self, method: Callable[..., Any], run: str, *args: Any, **kwargs: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            method(run, *args, **kwargs)
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
