"""`dqlab bench report`: the latest figures of each benchmark as Markdown tables, a part each, and as plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dqlab.files import atomic_path, write_text
from dqlab.printing import markdown_table
from dqlab.runs import measuring
from dqlab.tools.benchmarks import figure_cells


def write_benchmark_reports(found: pd.DataFrame, folder: Path) -> list[str]:
    """One report a kind of machine, each in a folder of its own if there are several; returns what to tell the user."""
    latest = found.groupby(["machine", "identity"], sort=False).tail(1)
    machines = list(latest.groupby("machine", sort=False))
    said = []
    for machine, rows in machines:
        own = folder / re.sub(r"\W+", "-", str(machine).lower()).strip("-") if len(machines) > 1 else folder
        said += write_benchmark_report(rows, own)
    return said


def write_benchmark_report(rows: pd.DataFrame, folder: Path) -> list[str]:
    """`benchmarks.md` and the plots for which there are data, from one row a benchmark.

    Returns:
        Lines for the user: what was written, and what was left out.
    """
    lines = ["# Benchmarks", "", *_header(rows), ""]
    for part, members in rows.groupby("part"):
        lines += [f"## {str(part).capitalize()}", "", _table(members), ""]
    drawn, missing = [], []
    for name, figure in draw_benchmarks(rows):
        if figure is None:
            missing.append(f"No plot of the {name}: nothing of it was measured.")
            continue
        drawn.append(folder / f"{name}.png")
        with atomic_path(drawn[-1]) as temporary:
            figure.savefig(temporary, format="png", dpi=130)
        lines += [f"![{name}]({name}.png)", ""]
    write_text(folder / "benchmarks.md", "\n".join([*lines, *missing]).rstrip() + "\n")
    return [f"Wrote {path}" for path in (folder / "benchmarks.md", *drawn)] + missing


def _header(rows: pd.DataFrame) -> Iterator[str]:
    """Machine, threads, versions, commit and date; where they differ, each value with how many it belongs to."""
    said = {
        "Machine": rows["machine"],
        "Threads": rows["threads"].map(lambda threads: "-" if pd.isna(threads) else f"{threads:.0f}"),
        "Versions": rows["versions"],
        "Commit": rows["commit"],
        "Date": rows["when"].dt.strftime("%Y-%m-%d"),
    }
    for name, values in said.items():
        counts = values.value_counts(sort=False)
        several = [f"{value} ({number} of the benchmarks)" for value, number in counts.items()]
        yield f"- {name}: {values.iloc[0] if len(counts) == 1 else '; '.join(several)}"


def _table(rows: pd.DataFrame) -> str:
    """A Markdown table: every parameter of this part a column, then the figures; numbers sorted as numbers."""
    conditions = conditions_of(rows)
    ordered = conditions.sort_values(list(conditions), key=_sortable) if len(conditions.columns) else conditions
    cells = [
        [str(rows.at[index, "name"]).rpartition("::")[2], *map(str, ordered.loc[index]), *figure_cells(rows.loc[index])]
        for index in ordered.index
    ]
    heads = ["benchmark", *conditions, *measuring.HEADINGS]
    return markdown_table(heads, cells, numbers=range(1, len(heads)))


def conditions_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The parameters without `part`, a column each, empty where a benchmark does not have one."""
    names = dict.fromkeys(name for parameters in rows["parameters"] for name in parameters if name != "part")
    filled = [[parameters.get(name, "") for name in names] for parameters in rows["parameters"]]
    return pd.DataFrame(filled, index=rows.index, columns=list(names), dtype=object)


def _sortable(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.map(lambda value: (1, 0.0, value) if isinstance(value, str) else (0, float(value), ""))


@dataclass(frozen=True)
class BenchmarkPlot:
    """A plot of one part's figures over one of its parameters.

    Attributes:
        part: whose benchmarks.
        x: the parameter.
        labels: title, and names of the axes.
        y, baseline: the figure, and the same of the baseline.
        unit: how the figure is written.
    """

    part: str
    x: str
    labels: tuple[str, str, str]
    y: Callable[[pd.DataFrame], pd.Series[Any]]
    baseline: Callable[[pd.DataFrame], pd.Series[Any]]
    unit: Callable[[float], str]


CURVES = (
    BenchmarkPlot(
        "sampler",
        "n_timesteps",
        ("Latency of the sampler", "diffusion steps N", "median time of a call"),
        lambda rows: rows["median"],
        lambda rows: rows["baseline_seconds"],
        measuring.format_seconds,
    ),
    BenchmarkPlot(
        "update",
        "replicas",
        ("Throughput of the update", "replicas K", "replica updates a second"),
        lambda rows: rows["per_second"].fillna(1 / rows["median"]),
        lambda rows: rows["work"] / rows["baseline_seconds"],
        measuring.format_count,
    ),
)


def draw_benchmarks(rows: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """The plots by name; None where there are no data."""
    for curve in CURVES:
        has_x = rows["parameters"].map(lambda parameters, x=curve.x: isinstance(parameters.get(x), (int, float)))
        data = rows[(rows["part"] == curve.part) & has_x]
        yield curve.part, _curve(curve, data) if len(data) else None
    peaked = rows[rows["peak_share"].notna()]
    yield "roofline", _roofline(peaked) if len(peaked) else None


def _curve(curve: BenchmarkPlot, rows: pd.DataFrame) -> Figure:
    """A line for each setting, and dashes for what it is compared with."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    over = conditions_of(rows)[curve.x].astype(float)
    for number, (label, members) in enumerate(rows.groupby(_labels(rows, {curve.x}))):
        table = pd.DataFrame({"x": over[members.index], "y": curve.y(members), "baseline": curve.baseline(members)})
        points = table.groupby("x").median()
        axes.plot(points["y"], marker="o", color=f"C{number}", label=label or "dqlab")
        if points["baseline"].notna().any():
            axes.plot(points["baseline"], marker=".", linestyle="--", alpha=0.6, color=f"C{number}")
    title, x_label, y_label = curve.labels
    axes.set(title=f"{title} (dashed: the baseline)", xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.set_xticks(sorted(set(over)), [f"{value:g}" for value in sorted(set(over))], minor=False)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: curve.unit(value)))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _labels(rows: pd.DataFrame, without: set[str]) -> pd.Series[str]:
    """What varies among the conditions: words as they are, numbers with their names."""
    conditions = conditions_of(rows).astype(str)
    varying = [name for name in conditions if name not in without and conditions[name].nunique() > 1]

    def label(parameters: dict[str, Any]) -> str:
        shown = {name: parameters[name] for name in varying if name in parameters}
        return ", ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in shown.items())

    return rows["parameters"].map(label)


def _roofline(rows: pd.DataFrame) -> Figure:
    """Bars: floating-point operations a second as a part of the device's measured peak."""
    rows = rows.sort_values(["part", "peak_share"], ascending=False)
    labels = pd.concat([members["part"] + ": " + _labels(members, set()) for _, members in rows.groupby("part")])
    figure = Figure(figsize=(8, 1.5 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    parts = list(dict.fromkeys(rows["part"]))
    colors = [f"C{parts.index(part)}" for part in rows["part"]]
    bars = axes.barh(range(len(rows)), 100 * rows["peak_share"], color=colors)
    axes.bar_label(bars, [measuring.format_share(share) for share in rows["peak_share"]], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), labels[rows.index].str.rstrip(": "), fontsize=8)
    devices = rows["parameters"].map(lambda parameters: str(parameters.get("device", "cpu")))
    peaks = rows["peak"].groupby(devices).median()
    said = ", ".join(f"{device}: {measuring.format_count(rate)}FLOP/s" for device, rate in peaks.items())
    axes.margins(x=0.12, y=0.5 / len(rows))
    axes.set_axisbelow(True)
    axes.set(title="Share of the measured peak", xlabel=f"% of a large float32 product ({said})")
    axes.grid(axis="x", alpha=0.3)
    return figure
