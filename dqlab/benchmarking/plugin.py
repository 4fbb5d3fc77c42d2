"""The pytest plugin: the fixture `measure`, a table at the end, and `--mlflow`.

pytest loads it in every session where dqlab is installed, so it imports nothing heavy, and does nothing unless
it is asked to. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import Any

import pytest

from dqlab.benchmarking.session import Session

KEY = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--mlflow`."""
    parser.getgroup("dqlab").addoption(
        "--mlflow",
        action="store_true",
        help="record every benchmark in MLflow ($MLFLOW_TRACKING_URI, or runs/mlflow.db), in experiment 'benchmarks'",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixture that fits: the working one, or the one that says what is missing."""
    config.stash[KEY] = Session(config)
    has_benchmark = hasattr(config.option, "benchmark_json")
    config.pluginmanager.register(WithBenchmark() if has_benchmark else WithoutBenchmark(), "dqlab-measure")


class WithBenchmark:
    """Where pytest-benchmark is installed."""

    @pytest.fixture
    def measure(self, benchmark: Any, request: pytest.FixtureRequest) -> Any:
        """Time a callable against a baseline; see `dqlab.benchmarking.measuring.Measure`."""
        from dqlab.benchmarking.measuring import Measure

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
