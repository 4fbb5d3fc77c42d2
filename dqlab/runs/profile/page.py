"""The one-page summary of a profile, in Markdown, and its lines on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dqlab.runs.profile.trace import CostRow, DeviceFigures, HostFigures, draws_noise

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
    figures: HostFigures | DeviceFigures

    @property
    def peak_share(self) -> float:
        """The products' rate as a part of the peak, by the time without the profiler."""
        return self.flops / self.seconds / self.peak


def profile_page(profile: Profile) -> str:
    """The summary."""
    figures = profile.figures
    host = isinstance(figures, HostFigures)
    facts = {**_setting(profile), **_times(profile), **_arithmetic(profile)}
    facts |= _of_host(figures) if isinstance(figures, HostFigures) else _of_device(figures)
    lines = [
        f"# Profile: {profile.execution} on {profile.device}",
        f"All figures are of one update of all replicas. `{TRACE}` opens in https://ui.perfetto.dev, or chrome://tracing.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]),
        f"## The most expensive {'operators' if host else 'kernels'}",
        _meaning(figures),
        _costs(figures.rows[:SHOWN]),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def main_figures(profile: Profile) -> str:
    """The main figures, in one line."""
    figures = profile.figures
    if isinstance(figures, HostFigures):
        own = f"{figures.operators:,.0f} operators an update, {format_share(figures.in_operators)} of the time in them"
    else:
        own = f"{figures.kernels:,.0f} kernels an update, device idle {format_share(figures.idle)} of the time"
    time, share = format_seconds(profile.seconds), format_share(profile.peak_share)
    return f"{time} an update ({profile.execution}), {own}, {share} of peak"


def shorten_name(name: str) -> str:
    """A name of an operator or kernel without what fills the line: return type, common namespaces, arguments."""
    if found := re.match(r"## Call (\w+) \w+ ##", name):
        return f"{found[1]}: its fused kernels and calls"
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("at::native::", "")
    plain = plain.split("(")[0].strip().replace("autograd::engine::evaluate_function", "autograd")
    return plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "..."


def _setting(profile: Profile) -> dict[str, str]:
    together = f" ({profile.width} computed together)" if profile.replicas > 1 else ""
    return {
        "execution": profile.execution,
        "device": profile.device,
        "threads": str(profile.threads),
        "replicas": f"{profile.replicas}{together}",
        "batch": f"{profile.batch:,}",
    }


def _times(profile: Profile) -> dict[str, str]:
    drawing = "; the noise of 100 steps is drawn in one of them" if draws_noise(profile.recorded) else ""
    return {
        "updates recorded": f"{len(profile.recorded)} (from step {profile.recorded.start:,}{drawing})",
        "time, without the profiler": f"{format_seconds(profile.seconds)} (mean of {len(profile.timed)} updates from "
        f"step {profile.timed.start:,})",
        "time, under the profiler": format_seconds(profile.figures.seconds),
    }


def _arithmetic(profile: Profile) -> dict[str, str]:
    return {
        "operations of the matrix products": f"{format_count(profile.flops)}FLOP",
        "share of peak": f"{format_share(profile.peak_share)} of {format_count(profile.peak)}FLOP/s, measured on a "
        "large float32 product; by the time without the profiler",
    }


def _of_host(figures: HostFigures) -> dict[str, str]:
    rest = 1 - figures.in_operators - figures.in_graphs
    parts = {
        "operators": f"{figures.operators:,.1f}",
        "time in operators": format_share(figures.in_operators),
        "time in compiled graphs, outside of operators": format_share(figures.in_graphs),
        "time elsewhere (Python, autograd's engine)": format_share(rest),
    }
    return {name: value for name, value in parts.items() if figures.in_graphs or "graphs" not in name}


def _of_device(figures: DeviceFigures) -> dict[str, str]:
    return {
        "kernels": f"{figures.kernels:,.1f}",
        "launches": f"{figures.launches:,.1f}",
        "device idle": format_share(figures.idle) if figures.rows else "not known: the trace has no kernels",
        "host waits for the device": f"{figures.waits:,.1f} times in 100 updates",
    }


def _meaning(figures: HostFigures | DeviceFigures) -> str:
    if isinstance(figures, DeviceFigures):
        return "Shares are of the recorded time; what runs at the same time counts for each."
    own = "By the time they take themselves, without what they call, under the profiler, which delays each."
    more = " `TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE=1` names the fused kernels of compiled graphs (it compiles anew)."
    return own + (more if figures.in_graphs else "")


def _costs(rows: list[CostRow]) -> str:
    lines = [
        f"| `{shorten_name(row.name)}` | {row.calls:,.1f} | {row.microseconds:,.0f} | {format_share(row.share)} |"
        for row in rows
    ]
    return "\n".join(["| | calls | microseconds | share of the time |", "|---|---:|---:|---:|", *lines])
