"""Documents of benchmark sessions, as pytest-benchmark and benchmarks/conftest.py write them, with made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from history import machine_kind

PEAK = 1e11


def benchmark(
    name: str, median: float, ratio: float | None = None, share: float | None = None, **parameters: Any
) -> dict[str, Any]:
    """One benchmark of a document; `share` of the peak."""
    work = parameters.get("replicas", 1)
    extra = {**parameters, "work": work, "per_second": work / median, "threads": 1}
    if ratio is not None:
        extra |= {"ratio": ratio, "baseline_seconds": median * ratio}
    if share is not None:
        rate = share * PEAK
        extra |= {"flops": rate * median, "flops_per_second": rate, "peak": PEAK, "peak_share": share}
    stats = {"median": median, "mean": median, "stddev": 0.0, "min": median, "iqr": 0.0, "rounds": 5, "outliers": "0;0"}
    return {"name": name, "fullname": f"benchmarks/test_it.py::{name}", "extra_info": extra, "stats": stats}


def session(path: Path, day: int, *benchmarks: dict[str, Any], machine: str | None = None) -> Path:
    """Write the document of one session, on this kind of machine unless another is named."""
    facts = {
        "kind": machine or machine_kind(),
        "cpu": "some CPU",
        "gpu": "",
        "cores": 2,
        "versions": {"torch": "2.9.0"},
    }
    document = {
        "dqlab": {"session": f"session-{day}", "machine": facts},
        "datetime": f"2026-01-{day:02}T12:00:00+00:00",
        "commit_info": {"id": f"{day:02}" * 20, "dirty": False},
        "benchmarks": list(benchmarks),
    }
    path.write_text(json.dumps(document))
    return path
