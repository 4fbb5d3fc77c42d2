"""What one pytest session measured: its table, its JSON, and its way to MLflow."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

FOLDER = Path("runs") / "benchmarks"
"""Where sessions are kept, below the folder in which pytest was started; MLflow's local store is beside it."""
SECONDS = 300.0  # to send a session; a server that answers needs a few


class Session:
    """Collects what `measure` finds, and deals with it when the tests are over.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._wanted = bool(config.getoption("mlflow"))
        self._rows: list[tuple[str, float, dict[str, float]]] = []
        self._outcome = ""
        self._id = uuid.uuid4().hex

    def note(self, name: str, median: float, figures: dict[str, float]) -> None:
        """Remember one benchmark: full name, median seconds, figures."""
        self._rows.append((name, median, figures))

    def complete(self, document: dict[str, Any]) -> None:
        """Add machine, versions and the session's own id to pytest-benchmark's document."""
        if self._rows or self._wanted:
            from dqlab.benchmarking.machine import facts

            document["dqlab"] = {"session": self._id, "machine": facts()}

    def finish(self) -> None:
        """With `--mlflow`, write the session's JSON and send it; failing costs a message, never the session."""
        if not self._wanted or hasattr(self._config, "workerinput"):
            return
        document = self._document()
        if not document.get("benchmarks"):
            self._outcome = "Nothing was measured, so nothing was sent to MLflow."
            return
        try:
            self._outcome = _send(_keep(document, self._config.invocation_params.dir, self._id))
        except OSError as error:
            self._outcome = f"The figures could not be kept: {error}"

    def _document(self) -> dict[str, Any]:
        """What pytest-benchmark would write for `--benchmark-json`, made by its own hooks."""
        benchmarks = self._config.pluginmanager.get_plugin("pytest-benchmark")
        if benchmarks is None or not any(benchmarks.benchmarks):
            return {}
        hook, config = self._config.hook, self._config
        commit = hook.pytest_benchmark_generate_commit_info(config=config)
        hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit)
        common = {"config": config, "benchmarks": benchmarks.benchmarks}
        machine = benchmarks.get_machine_info()
        document: dict[str, Any] = hook.pytest_benchmark_generate_json(
            **common, include_data=True, machine_info=machine, commit_info=commit
        )
        hook.pytest_benchmark_update_json(**common, output_json=document)
        return document

    def summary(self) -> list[str]:
        """Lines for the terminal; none if nothing was measured and nothing was asked for."""
        from dqlab.benchmarking.text import HEADINGS, aligned, cells

        rows = [[name, *cells(median, figures)] for name, median, figures in self._rows]
        table = aligned([["benchmark", *HEADINGS], *rows]) if rows else []
        return [*table, *filter(None, [self._outcome])]


def _keep(document: dict[str, Any], folder: Path, session: str) -> Path:
    """Write the session's JSON, before anything is sent."""
    import json

    from dqlab.files import write_text

    path = folder / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{session[:6]}.json"
    write_text(path, json.dumps(document, indent=1, default=str))
    return path


def _send(path: Path) -> str:
    """Send a kept session in a process of its own: neither MLflow's client nor a dead server touches the tests."""
    from dqlab.tracking.mirror import mirror_environment

    command = [sys.executable, "-m", "dqlab.cli", "bench", "send", str(path)]
    folder = path.parents[len(FOLDER.parts)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=mirror_environment(), capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return (
            f"MLflow took longer than {SECONDS:.0f} seconds. The figures are in {path}; later: dqlab bench send {path}"
        )
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return said[-1] if said else f"Sending ended with status {done.returncode}; later: dqlab bench send {path}"
