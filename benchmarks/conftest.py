"""How the benchmarks run: one thread on a CPU, every device, the full matrix or `--quick`; measured, kept and sent.

`measure` times in alternation and stands on pytest-benchmark's fixture. With `--mlflow` the session is kept in
pytest-benchmark's storage, and from there sent to MLflow.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # baseline.py, history.py, measuring.py and subjects.py

from history import FOLDER, HEADINGS, SEND, align_columns, benchmark_cells, machine_facts  # noqa: E402
from measuring import Measure  # noqa: E402

from dqlab.tracking.mlflow.client import mirror_environment  # noqa: E402

LIMIT = 3600.0
"""Seconds a benchmark may take: compiling a long chain takes minutes."""
SECONDS = 300.0
"""To send a session; a server that answers needs a few."""
MEASURED: list[list[str]] = []
"""What `measure` found: name and figures."""
SESSION = uuid.uuid4().hex


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dqlab")
    group.addoption("--quick", action="store_true", help="a small part of the benchmarks' matrix")
    text = "record every benchmark in MLflow ($MLFLOW_TRACKING_URI, or runs/mlflow.db), in experiment 'benchmarks'"
    group.addoption("--mlflow", action="store_true", help=text)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """With `--mlflow`, pytest-benchmark keeps the session under a name by which it is found."""
    if config.getoption("mlflow"):
        config.option.benchmark_storage = str(config.invocation_params.dir / FOLDER)
        config.option.benchmark_save = f"{time.strftime('%Y%m%d-%H%M%S')}-{SESSION[:6]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each file says in `cases` what its matrix is."""
    if "case" in metafunc.fixturenames:
        cases = metafunc.module.cases(metafunc.config.getoption("quick"))
        metafunc.parametrize("case", cases, ids=lambda case: case.id)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> int:
    """Rows of the datasets: as many as D4RL's."""
    return 100_000 if request.config.getoption("quick") else 1_000_000


@pytest.fixture
def measure(benchmark: Any) -> Measure:
    """Time a callable against a baseline."""
    return Measure(benchmark, lambda name, median, figures: MEASURED.append([name, *benchmark_cells(median, figures)]))


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Machine, versions and the session's own id, which `history.py` wants to know."""
    output_json["dqlab"] = {"session": SESSION, "machine": machine_facts()}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of what was measured, and whether it was sent."""
    lines = align_columns([["benchmark", *HEADINGS], *MEASURED]) if MEASURED else []
    lines += [send(config)] if config.getoption("mlflow") else []
    if lines:
        terminalreporter.section("dqlab benchmarks")
        terminalreporter.write_line("\n".join(lines))


def send(config: pytest.Config) -> str:
    """Send the session in a process of its own: neither MLflow's client nor a dead server touches the tests."""
    kept = list(Path(config.option.benchmark_storage).glob(f"*/*{SESSION[:6]}.json"))
    if not kept:
        return "Nothing was measured, so nothing was sent to MLflow."
    command, later = [sys.executable, str(HERE / "history.py"), "send", str(kept[0])], f"{SEND} {kept[0]}"
    place = {"cwd": config.invocation_params.dir, "env": mirror_environment()}
    try:
        done = subprocess.run(command, **place, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"MLflow took longer than {SECONDS:.0f} seconds. The figures are in {kept[0]}; later: {later}"
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return said[-1] if said else f"Sending ended with status {done.returncode}; later: {later}"
