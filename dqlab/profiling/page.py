"""The one-page summary of a profile, in Markdown, and its lines on the terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dqlab.benchmarking import text
from dqlab.profiling.figures import DeviceFigures, HostFigures, Row
from dqlab.profiling.window import draws_noise

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


def page(profile: Profile) -> str:
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
        own = f"{figures.operators:,.0f} operators an update, {text.share(figures.in_operators)} of the time in them"
    else:
        own = f"{figures.kernels:,.0f} kernels an update, device idle {text.share(figures.idle)} of the time"
    time, share = text.seconds(profile.seconds), text.share(profile.peak_share)
    return f"{time} an update ({profile.execution}), {own}, {share} of peak"


def shortened(name: str) -> str:
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
        "time, without the profiler": f"{text.seconds(profile.seconds)} (mean of {len(profile.timed)} updates from "
        f"step {profile.timed.start:,})",
        "time, under the profiler": text.seconds(profile.figures.seconds),
    }


def _arithmetic(profile: Profile) -> dict[str, str]:
    return {
        "operations of the matrix products": f"{text.count(profile.flops)}FLOP",
        "share of peak": f"{text.share(profile.peak_share)} of {text.count(profile.peak)}FLOP/s, measured on a large "
        "float32 product; by the time without the profiler",
    }


def _of_host(figures: HostFigures) -> dict[str, str]:
    rest = 1 - figures.in_operators - figures.in_graphs
    parts = {
        "operators": f"{figures.operators:,.1f}",
        "time in operators": text.share(figures.in_operators),
        "time in compiled graphs, outside of operators": text.share(figures.in_graphs),
        "time elsewhere (Python, autograd's engine)": text.share(rest),
    }
    return {name: value for name, value in parts.items() if figures.in_graphs or "graphs" not in name}


def _of_device(figures: DeviceFigures) -> dict[str, str]:
    return {
        "kernels": f"{figures.kernels:,.1f}",
        "launches": f"{figures.launches:,.1f}",
        "device idle": text.share(figures.idle) if figures.rows else "not known: the trace has no kernels",
        "host waits for the device": f"{figures.waits:,.1f} times in 100 updates",
    }


def _meaning(figures: HostFigures | DeviceFigures) -> str:
    if isinstance(figures, DeviceFigures):
        return "Shares are of the recorded time; what runs at the same time counts for each."
    own = "By the time they take themselves, without what they call, under the profiler, which delays each."
    more = " `TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE=1` names the fused kernels of compiled graphs (it compiles anew)."
    return own + (more if figures.in_graphs else "")


def _costs(rows: list[Row]) -> str:
    lines = [
        f"| `{shortened(row.name)}` | {row.calls:,.1f} | {row.microseconds:,.0f} | {text.share(row.share)} |"
        for row in rows
    ]
    return "\n".join(["| | calls | microseconds | share of the time |", "|---|---:|---:|---:|", *lines])
