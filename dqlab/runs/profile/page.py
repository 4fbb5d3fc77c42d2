"""The one-page summary of a profile, in Markdown, and its lines on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dqlab.noise import CHUNK

NONE = "-"
TIMES = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"), (0.0, " ns"))
COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, ""))
SMALLEST = {" ns": 1e-9}


def format_digits(value: float) -> str:
    """Three significant digits, never in exponential form."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:.{max(decimals, 0)}f}"


def _scaled(value: float | None, scales: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return NONE
    factor, unit = next(scale for scale in scales if value >= scale[0] * 0.9995)
    return format_digits(value / (factor or SMALLEST.get(unit, 1.0))) + unit


def format_seconds(value: float | None) -> str:
    """A duration, e.g. 12.3 ms."""
    return _scaled(value, TIMES)


def format_count(value: float | None) -> str:
    """A number or a rate, e.g. 123 or 45.6 k."""
    return _scaled(value, COUNTS)


def format_times(ratio: float | None) -> str:
    """How many times faster, e.g. 1.52x."""
    return NONE if ratio is None else f"{format_digits(ratio)}x"


def format_share(part: float | None) -> str:
    """A part of a whole, e.g. 12.3%."""
    return NONE if part is None else f"{100 * part:.1f}%"


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line, e.g. batch=256, mode=eager."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def benchmark_cells(median: float | None, figures: Mapping[str, float]) -> list[str]:
    """The five columns of every table of benchmarks, without the name: see `HEADINGS`."""
    return [
        format_seconds(median),
        format_count(figures.get("per_second")),
        format_times(figures.get("ratio")),
        format_share(figures.get("peak_share")),
    ]


HEADINGS = ("median", "per second", "ratio", "of peak")


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


TRACE, SUMMARY = "trace.json.gz", "summary.md"
SHOWN, WIDEST = 10, 72


@dataclass(frozen=True)
class CostRow:
    """One line of the table of costs, per update."""

    name: str
    calls: float
    microseconds: float
    share: float


@dataclass(frozen=True)
class ProfileFigures:
    """What the host or the device did in the recorded updates, all of it per update.

    Attributes:
        seconds: of one update, under the profiler.
        summary: the main figures, in a line.
        facts: name -> text, for the page.
        unit: what the rows are, operators or kernels.
        note: how the rows are to be read.
        rows: the most expensive first.
    """

    seconds: float
    summary: str
    facts: Mapping[str, str]
    unit: str
    note: str
    rows: Sequence[CostRow]


@dataclass(frozen=True)
class Profile:
    """What is known of the recorded updates.

    Attributes:
        execution, device: names.
        threads: of the tensor library, on the CPU.
        replicas, width: K, and how many are computed together.
        batch: transitions of a replica an update.
        timed, recorded: steps of the updates that were timed without, and recorded under the profiler.
        seconds: of an update without the profiler.
        flops: of an update's matrix products.
        peak: the device's measured floating-point operations a second.
        figures: of the trace.
    """

    execution: str
    device: str
    threads: int
    replicas: int
    width: int
    batch: int
    timed: range
    recorded: range
    seconds: float
    flops: int
    peak: float
    figures: ProfileFigures

    @property
    def peak_share(self) -> float:
        """The products' rate as a part of the peak, by the time without the profiler."""
        return self.flops / self.seconds / self.peak


def profile_page(profile: Profile) -> str:
    """The summary."""
    figures = profile.figures
    facts = {**_facts(profile), **figures.facts}
    costs = [
        f"| `{shorten_name(row.name)}` | {row.calls:,.1f} | {row.microseconds:,.0f} | {format_share(row.share)} |"
        for row in figures.rows[:SHOWN]
    ]
    lines = [
        f"# Profile: {profile.execution} on {profile.device}",
        f"All figures are of one update of all replicas. `{TRACE}` opens in https://ui.perfetto.dev, or chrome://tracing.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]),
        f"## The most expensive {figures.unit}",
        figures.note,
        "\n".join(["| | calls | microseconds | share of the time |", "|---|---:|---:|---:|", *costs]),
    ]
    return "\n\n".join(lines) + "\n"


def main_figures(profile: Profile) -> str:
    """The main figures, in one line."""
    time, share = format_seconds(profile.seconds), format_share(profile.peak_share)
    return f"{time} an update ({profile.execution}), {profile.figures.summary}, {share} of peak"


def shorten_name(name: str) -> str:
    """A name of an operator or kernel without what fills the line: return type, common namespaces, arguments."""
    if found := re.match(r"## Call (\w+) \w+ ##", name):
        return f"{found[1]}: its fused kernels and calls"
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("at::native::", "")
    plain = plain.split("(")[0].strip().replace("autograd::engine::evaluate_function", "autograd")
    return plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "..."


def _facts(profile: Profile) -> dict[str, str]:
    together = f" ({profile.width} computed together)" if profile.replicas > 1 else ""
    draws = any(step % CHUNK == 0 for step in profile.recorded)
    drawing = f"; the noise of {CHUNK} steps is drawn in one of them" if draws else ""
    return {
        "execution": profile.execution,
        "device": profile.device,
        "threads": str(profile.threads),
        "replicas": f"{profile.replicas}{together}",
        "batch": f"{profile.batch:,}",
        "updates recorded": f"{len(profile.recorded)} (from step {profile.recorded.start:,}{drawing})",
        "time, without the profiler": f"{format_seconds(profile.seconds)} (mean of {len(profile.timed)} updates from "
        f"step {profile.timed.start:,})",
        "time, under the profiler": format_seconds(profile.figures.seconds),
        "operations of the matrix products": f"{format_count(profile.flops)}FLOP",
        "share of peak": f"{format_share(profile.peak_share)} of {format_count(profile.peak)}FLOP/s, measured on a "
        "large float32 product; by the time without the profiler",
    }
