"""Benchmarks over time: where they come from, and which of them got worse."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dqlab.benchmarking.grouping import group
from dqlab.benchmarking.record import Record, read_document, records_of
from dqlab.errors import BenchmarkError

TOLERANCE = 0.10
"""A ratio may fall by this much below the best before it is called worse: machines are noisy."""


@dataclass(frozen=True)
class History:
    """One benchmark on one kind of machine, measured once or more; the newest last."""

    records: Sequence[Record]

    @property
    def latest(self) -> Record:
        """The newest."""
        return self.records[-1]

    @property
    def best_before(self) -> float | None:
        """The best ratio before the latest; None if there is none."""
        return max((record.ratio for record in self.records[:-1] if record.ratio is not None), default=None)

    @property
    def loss(self) -> float:
        """How far the latest ratio lies below the best earlier one, as a part of that; negative if it is better.

        Ratios to a baseline measured in alternation are compared, not times: a busy machine slows both.
        """
        best, now = self.best_before, self.latest.ratio
        return 0.0 if best is None or now is None else 1 - now / best

    @property
    def worse(self) -> bool:
        """Whether that is more than `TOLERANCE`."""
        return self.loss > TOLERANCE


def read(files: Sequence[Path], uri: str | None, machine: str) -> dict[str, list[History]]:
    """Histories by machine kind, from JSON files, or from MLflow if none are named.

    Args:
        files: written by `pytest --benchmark-json` or `--mlflow`.
        uri: MLflow's; None for the default.
        machine: `this` kind, `all`, or the name of one.

    Raises:
        BenchmarkError: nothing to be read, or nothing of that machine.
    """
    records = _from_files(files) if files else _from_mlflow(uri)
    by_machine = {kind: histories(found) for kind, found in group(records, lambda record: record.machine).items()}
    return by_machine if machine == "all" else _only(by_machine, machine)


def _from_files(files: Sequence[Path]) -> list[Record]:
    return [record for path in files for record in records_of(read_document(path))]


def _from_mlflow(uri: str | None) -> list[Record]:
    from dqlab.benchmarking.store import load, the_uri

    return load(the_uri(uri))


def _only(by_machine: dict[str, list[History]], machine: str) -> dict[str, list[History]]:
    from dqlab.benchmarking.machine import kind

    wanted = kind() if machine == "this" else machine
    if wanted not in by_machine:
        known = "; ".join(sorted(by_machine)) or "none"
        raise BenchmarkError(f"No benchmarks of this kind of machine: {wanted}. Known: {known} (--machine all).")
    return {wanted: by_machine[wanted]}


def histories(records: Sequence[Record]) -> list[History]:
    """One a benchmark, by part and name; one that changed its parameters or threads is another one."""
    by_benchmark = group(records, _identity)
    found = [History(sorted(each, key=lambda record: record.when)) for each in by_benchmark.values()]
    return sorted(found, key=lambda history: (history.latest.part, history.latest.name))


def _identity(record: Record) -> Hashable:
    parameters = tuple(sorted((name, str(value)) for name, value in record.parameters.items()))
    return record.name, parameters, record.figures.get("threads")
