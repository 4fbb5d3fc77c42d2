"""The pytest plugin: the fixture `measure`, a table at the end, and `--mlflow`.

pytest loads it in every session where dqlab is installed, so it imports nothing heavy, and does nothing unless
it is asked to. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dqlab.files import write_text

if TYPE_CHECKING:
    import pytest
FOLDER = Path("runs") / "benchmarks"
"""Where sessions are kept, below the folder in which pytest was started; MLflow's local store is beside it."""
SECONDS = 300.0  # to send a session; a server that answers needs a few


class BenchmarkSession:
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
            from dqlab.tools.benchmarking.record import machine_facts

            document["dqlab"] = {"session": self._id, "machine": machine_facts()}

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
        from dqlab.runs.profile.page import HEADINGS, align_columns, benchmark_cells

        rows = [[name, *benchmark_cells(median, figures)] for name, median, figures in self._rows]
        table = align_columns([["benchmark", *HEADINGS], *rows]) if rows else []
        return [*table, *filter(None, [self._outcome])]


def _keep(document: dict[str, Any], folder: Path, session: str) -> Path:
    """Write the session's JSON, before anything is sent."""
    import json

    path = folder / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{session[:6]}.json"
    write_text(path, json.dumps(document, indent=1, default=str))
    return path


def _send(path: Path) -> str:
    """Send a kept session in a process of its own: neither MLflow's client nor a dead server touches the tests."""
    from dqlab.tracking.mlflow.client import mirror_environment

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


KEY = pytest.StashKey[BenchmarkSession]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--mlflow`."""
    parser.getgroup("dqlab").addoption(
        "--mlflow",
        action="store_true",
        help="record every benchmark in MLflow ($MLFLOW_TRACKING_URI, or runs/mlflow.db), in experiment 'benchmarks'",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixture that fits: the working one, or the one that says what is missing."""
    config.stash[KEY] = BenchmarkSession(config)
    has_benchmark = hasattr(config.option, "benchmark_json")
    config.pluginmanager.register(WithBenchmark() if has_benchmark else WithoutBenchmark(), "dqlab-measure")


class WithBenchmark:
    """Where pytest-benchmark is installed."""

    @pytest.fixture
    def measure(self, benchmark: Any, request: pytest.FixtureRequest) -> Any:
        """Time a callable against a baseline; see `dqlab.tools.benchmarking.measuring.Measure`."""
        from dqlab.tools.benchmarking.measuring import Measure

        return Measure(benchmark, request.config.stash[KEY].note)


class WithoutBenchmark:
    """Where it is not, or is switched off."""

    @pytest.fixture
    def measure(self) -> None:
        """Say what is missing."""
        pytest.fail("The fixture 'measure' needs pytest-benchmark: pip install pytest-benchmark", pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what `dqlab bench` wants to know to pytest-benchmark's JSON, if any of it is ours."""
    config.stash[KEY].complete(output_json)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the figures and send them, with `--mlflow`."""
    session.config.stash[KEY].finish()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of what was measured, and whether it was sent."""
    lines = config.stash[KEY].summary()
    if lines:
        terminalreporter.section("dqlab benchmarks")
        for line in lines:
            terminalreporter.write_line(line)
