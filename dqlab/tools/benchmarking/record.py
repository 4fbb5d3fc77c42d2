"""One benchmark, measured once: what it is called, what it was, what came out, on what and when."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from dqlab import __version__
from dqlab.errors import BenchmarkError
from dqlab.tools.benchmarking.measuring import FIGURES

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by key, both in order of first appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


NONE = "none"
"""The version of what is not there."""


def machine_facts() -> dict[str, Any]:
    """Kind, CPU, GPU (empty if none), cores, and versions of this machine and this process."""
    import numpy
    import torch

    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "dqlab": __version__,
        "cuda": torch.version.cuda or NONE,
    }
    return {
        "kind": machine_kind(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "cores": os.cpu_count(),
        "versions": {name: str(version) for name, version in versions.items()},
    }


def machine_kind() -> str:
    """CPU model, cores, and GPU if there is one: the same on like machines, whatever they are called."""
    return ", ".join(filter(None, (_cpu(), f"{os.cpu_count()} cores", _gpu())))


def _cpu() -> str:
    """The CPU's model where Linux tells, else what Python knows of it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpu() -> str:
    """The first GPU's name; empty if there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


UNKNOWN_COMMITS = ("unversioned", "unknown")


@dataclass(frozen=True)
class BenchmarkRecord:
    """One benchmark, measured once.

    Attributes:
        name: pytest's full name of the benchmark.
        parameters: what tells it from others; `part` says which plot it belongs to.
        figures: pytest-benchmark's statistics (seconds) and what `measure` adds.
        machine: the machine's kind.
        when: UTC.
        facts: CPU, GPU, cores, versions, commit, session; all text.
    """

    name: str
    parameters: Mapping[str, Any]
    figures: Mapping[str, float]
    machine: str
    when: datetime
    facts: Mapping[str, str]

    @property
    def part(self) -> str:
        """What is measured: sampler, update, evaluation, data, ...; `other` if it is not said."""
        return str(self.parameters.get("part", "other"))

    @property
    def conditions(self) -> dict[str, Any]:
        """The parameters without `part`."""
        return {name: value for name, value in self.parameters.items() if name != "part"}

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return self.figures["median"]

    @property
    def ratio(self) -> float | None:
        """How many times faster than its baseline; None without one."""
        return self.figures.get("ratio")

    @property
    def commit(self) -> str:
        """The commit in short, with a + if the code was not exactly that; `-` outside a checkout."""
        commit, _, changes = self.facts.get("git_commit", "").partition("+")
        return (commit[:9] + ("+" if changes else "")) or "-"


def read_document(path: Path) -> dict[str, Any]:
    """pytest-benchmark's JSON of a session in which dqlab's plugin was loaded.

    Raises:
        BenchmarkError: there is no such file, or it is something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(document, dict) or not document.get("benchmarks") or "dqlab" not in document:
        raise BenchmarkError(
            f"{path} holds no benchmarks of dqlab. Write it with: pytest benchmarks/ --benchmark-json={path}"
        )
    return document


def records_of(document: Mapping[str, Any]) -> list[BenchmarkRecord]:
    """The benchmarks of a document."""
    machine = document["dqlab"]["machine"]
    when = datetime.fromisoformat(document["datetime"])
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    facts = _facts(document, machine)
    return [
        BenchmarkRecord(item["fullname"], _parameters(item), _figures(item), machine["kind"], when, facts)
        for item in document["benchmarks"]
    ]


def _facts(document: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, str]:
    commit = document.get("commit_info", {})
    known = commit.get("id", "unknown") not in UNKNOWN_COMMITS
    return {
        "session": document["dqlab"]["session"],
        **{name: str(machine[name]) for name in ("cpu", "gpu", "cores")},
        **{f"version.{name}": version for name, version in machine["versions"].items()},
        "git_commit": commit["id"] + ("+changes" if commit.get("dirty") else "") if known else "",
    }


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item["extra_info"].items() if name not in FIGURES}


def _figures(item: Mapping[str, Any]) -> dict[str, float]:
    """Every number that came out; pytest-benchmark has some texts and lists among them."""
    everything = {**item["stats"], **{name: item["extra_info"].get(name) for name in FIGURES}}
    return {name: float(value) for name, value in everything.items() if isinstance(value, (int, float))}
