"""How the benchmarks run: one thread on a CPU, every device of this machine, the full matrix or `--quick`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # baseline.py and subjects.py

LIMIT = 3600.0
"""Seconds a benchmark may take: compiling a long chain takes minutes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("dqlab").addoption("--quick", action="store_true", help="a small part of the benchmarks' matrix")


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
