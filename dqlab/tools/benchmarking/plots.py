"""The plots of a report, as PNGs, where there are data for them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.files import atomic_path
from dqlab.runs.profile import page
from dqlab.tools.benchmarking.record import BenchmarkRecord, group_by


def new_sheet(height: float) -> Any:
    """An empty figure, as wide as all others, `height` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def what_varies(records: Sequence[BenchmarkRecord]) -> set[str]:
    """Names of the conditions that are not the same for all."""
    names = {name for record in records for name in record.conditions}
    return {name for name in names if len({str(record.conditions.get(name)) for record in records}) > 1}


def label_of(record: BenchmarkRecord, varying: set[str]) -> str:
    """What varies: words as they are, numbers with their names."""
    shown = {name: value for name, value in record.conditions.items() if name in varying}
    return ", ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in shown.items())


MARKERS = "osD^vP*X"
LEGEND_WIDTH = 120  # characters


@dataclass(frozen=True)
class BenchmarkPlot:
    """A plot of one part's figures over one of its parameters.

    Attributes:
        part: whose benchmarks.
        x: the parameter.
        title, x_label, y_label: what is written.
        y: the figure.
        baseline: the same figure of the baseline; None if it has none.
        unit: how the figure is written.
    """

    part: str
    x: str
    title: str
    x_label: str
    y_label: str
    y: Callable[[BenchmarkRecord], float]
    baseline: Callable[[BenchmarkRecord], float | None]
    unit: Callable[[float], str]


CURVES = (
    BenchmarkPlot(
        part="sampler",
        x="n_timesteps",
        title="Latency of the sampler",
        x_label="diffusion steps N",
        y_label="median time of a call",
        y=lambda record: record.median,
        baseline=lambda record: record.figures.get("baseline_seconds"),
        unit=page.format_seconds,
    ),
    BenchmarkPlot(
        part="update",
        x="replicas",
        title="Throughput of the update",
        x_label="replicas K",
        y_label="replica updates a second",
        y=lambda record: record.figures.get("per_second", 1 / record.median),
        baseline=lambda record: _baseline_rate(record),
        unit=page.format_count,
    ),
)


def _baseline_rate(record: BenchmarkRecord) -> float | None:
    seconds = record.figures.get("baseline_seconds")
    return record.figures["work"] / seconds if seconds else None


def data_of(curve: BenchmarkPlot, records: Sequence[BenchmarkRecord]) -> list[BenchmarkRecord]:
    """The benchmarks that have a place on a curve."""
    return [record for record in records if record.part == curve.part and _is_number(record.parameters.get(curve.x))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def draw_benchmark_curve(curve: BenchmarkPlot, records: Sequence[BenchmarkRecord]) -> Any:
    """A colour for each setting, a marker for each mode, and dashes for what it is compared with."""
    figure = new_sheet(4.5)
    axes = figure.subplots()
    varying = what_varies(records) - {curve.x, "mode"}
    records = sorted(records, key=lambda record: [_rank(record.parameters.get(name)) for name in sorted(varying)])
    modes = list(dict.fromkeys(_mode(record) for record in records))
    settings = group_by(records, lambda record: label_of(record, varying))
    for number, (setting, members) in enumerate(settings.items()):
        for mode, line in group_by(members, _mode).items():
            style = {"marker": MARKERS[modes.index(mode) % len(MARKERS)], "linestyle": "-"}
            axes.plot(*_points(line, curve, curve.y), **style, color=f"C{number}", label=_joined(mode, setting))
        dashes = {"marker": ".", "linestyle": "--", "alpha": 0.6}
        baseline = _points(members, curve, curve.baseline)
        axes.plot(*baseline, **dashes, color=f"C{number}", label=_joined("baseline", setting))
    _dress(axes, curve, sorted({record.parameters[curve.x] for record in records}))
    _legend(figure, axes, len(settings))
    return figure


def _rank(value: Any) -> tuple[float, str]:
    """Numbers by size, words by the alphabet."""
    return (float(value), "") if isinstance(value, (int, float)) else (0.0, str(value))


def _joined(*words: str) -> str:
    return ", ".join(filter(None, words)) or "dqlab"


def _points(
    records: Sequence[BenchmarkRecord], curve: BenchmarkPlot, figure: Callable[[BenchmarkRecord], float | None]
) -> tuple[list[float], list[float]]:
    """Abscissas and medians of the figure, where there is one."""
    found = [(record.parameters[curve.x], value) for record in records if (value := figure(record)) is not None]
    by_x = group_by(sorted(found), lambda point: point[0])
    return list(by_x), [statistics.median(value for _, value in points) for points in by_x.values()]


def _mode(record: BenchmarkRecord) -> str:
    return str(record.parameters.get("mode", ""))


def _dress(axes: Any, curve: BenchmarkPlot, ticks: Sequence[float]) -> None:
    """Logarithmic axes whose ticks can be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(_spread(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(curve.unit(value))))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
    axes.grid(alpha=0.3)
    _widen(axes)


def _widen(axes: Any) -> None:
    """Show a decade at least: three ticks lie in it."""
    low, high = axes.get_ylim()
    factor = max(1.0, (10 * low / high) ** 0.5)
    axes.set_ylim(low / factor, high * factor)


def _short(figure: str) -> str:
    """50 ms for 50.0 ms: ticks are round."""
    number, *unit = figure.split()
    return " ".join([f"{float(number):g}", *unit])


def _spread(ticks: Sequence[float]) -> Any:
    """Ticks at the values themselves, without those that would touch their neighbour on the left."""
    from matplotlib.ticker import FixedLocator

    wide = (ticks[-1] / ticks[0]) ** (1 / 20)
    kept = [ticks[0]]
    for tick in ticks[1:]:
        kept += [tick] if tick > kept[-1] * wide else []
    return FixedLocator(kept)


def _legend(figure: Any, axes: Any, settings: int) -> None:
    """Below the axes, where it hides nothing; a column for each setting, if they are few and short."""
    handles, labels = axes.get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if len(handle.get_xdata())]
    fitting = LEGEND_WIDTH // max(len(label) + 8 for _, label in shown)
    columns = max(1, min(settings, fitting))
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def draw_roofline(records: Sequence[BenchmarkRecord]) -> Any:
    """Bars: floating-point operations a second as a part of the device's measured peak."""
    figure = new_sheet(1.5 + 0.32 * len(records))
    axes = figure.subplots()
    ordered = sorted(records, key=lambda record: (record.part, record.figures["peak_share"]), reverse=True)
    varying = {part: what_varies(members) for part, members in group_by(records, lambda r: r.part).items()}
    parts = list(varying)
    labels = [f"{record.part}: {label_of(record, varying[record.part])}".rstrip(": ") for record in ordered]
    colors = [f"C{parts.index(record.part)}" for record in ordered]
    bars = axes.barh(range(len(ordered)), [100 * record.figures["peak_share"] for record in ordered], color=colors)
    axes.bar_label(bars, [page.format_share(record.figures["peak_share"]) for record in ordered], padding=3, fontsize=8)
    axes.set_yticks(range(len(ordered)), labels, fontsize=8)
    axes.margins(x=0.12, y=0.5 / len(records))
    axes.set_axisbelow(True)
    axes.set(title="Share of the measured peak", xlabel=f"% of a large float32 product ({_peaks(records)})")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _peaks(records: Sequence[BenchmarkRecord]) -> str:
    """The peak of each device; the median where it was measured in several sessions."""
    by_device = group_by(records, lambda record: str(record.parameters.get("device", "cpu")))
    rates = {device: statistics.median(r.figures["peak"] for r in members) for device, members in by_device.items()}
    return ", ".join(f"{device}: {page.format_count(rate)}FLOP/s" for device, rate in rates.items())


Painter = Callable[[Sequence[BenchmarkRecord]], Any]


def draw_benchmarks(records: Sequence[BenchmarkRecord], folder: Path) -> tuple[list[Path], list[str]]:
    """Draw what there are data for.

    Args:
        records: one a benchmark, of one kind of machine.
        folder: where the PNGs go.

    Returns:
        The PNGs, and the names of those that were left out.
    """
    drawn, left_out = [], []
    plots: dict[str, tuple[list[BenchmarkRecord], Painter]] = {
        curve.part: (data_of(curve, records), partial(draw_benchmark_curve, curve)) for curve in CURVES
    }
    plots["roofline"] = ([record for record in records if "peak_share" in record.figures], draw_roofline)
    for name, (data, painter) in plots.items():
        if data:
            drawn.append(_save(painter(data), folder / f"{name}.png"))
        else:
            left_out.append(name)
    return drawn, left_out


def _save(figure: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path
