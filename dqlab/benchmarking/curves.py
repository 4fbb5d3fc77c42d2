"""Plots of a figure over a parameter: the sampler's latency over steps, the update's throughput over replicas."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dqlab.benchmarking import text
from dqlab.benchmarking.grouping import group
from dqlab.benchmarking.labels import label_of, new_sheet, what_varies
from dqlab.benchmarking.record import Record

MARKERS = "osD^vP*X"
LEGEND_WIDTH = 120  # characters


@dataclass(frozen=True)
class Curve:
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
    y: Callable[[Record], float]
    baseline: Callable[[Record], float | None]
    unit: Callable[[float], str]


CURVES = (
    Curve(
        part="sampler",
        x="n_timesteps",
        title="Latency of the sampler",
        x_label="diffusion steps N",
        y_label="median time of a call",
        y=lambda record: record.median,
        baseline=lambda record: record.figures.get("baseline_seconds"),
        unit=text.seconds,
    ),
    Curve(
        part="update",
        x="replicas",
        title="Throughput of the update",
        x_label="replicas K",
        y_label="replica updates a second",
        y=lambda record: record.figures.get("per_second", 1 / record.median),
        baseline=lambda record: _baseline_rate(record),
        unit=text.count,
    ),
)


def _baseline_rate(record: Record) -> float | None:
    seconds = record.figures.get("baseline_seconds")
    return record.figures["work"] / seconds if seconds else None


def data_of(curve: Curve, records: Sequence[Record]) -> list[Record]:
    """The benchmarks that have a place on a curve."""
    return [record for record in records if record.part == curve.part and _is_number(record.parameters.get(curve.x))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def draw_curve(curve: Curve, records: Sequence[Record]) -> Any:
    """A colour for each setting, a marker for each mode, and dashes for what it is compared with."""
    figure = new_sheet(4.5)
    axes = figure.subplots()
    varying = what_varies(records) - {curve.x, "mode"}
    records = sorted(records, key=lambda record: [_rank(record.parameters.get(name)) for name in sorted(varying)])
    modes = list(dict.fromkeys(_mode(record) for record in records))
    settings = group(records, lambda record: label_of(record, varying))
    for number, (setting, members) in enumerate(settings.items()):
        for mode, line in group(members, _mode).items():
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
    records: Sequence[Record], curve: Curve, figure: Callable[[Record], float | None]
) -> tuple[list[float], list[float]]:
    """Abscissas and medians of the figure, where there is one."""
    found = [(record.parameters[curve.x], value) for record in records if (value := figure(record)) is not None]
    by_x = group(sorted(found), lambda point: point[0])
    return list(by_x), [statistics.median(value for _, value in points) for points in by_x.values()]


def _mode(record: Record) -> str:
    return str(record.parameters.get("mode", ""))


def _dress(axes: Any, curve: Curve, ticks: Sequence[float]) -> None:
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
