"""The plot of how much of the device's measured peak each benchmark uses."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dqlab.benchmarking import text
from dqlab.benchmarking.grouping import group
from dqlab.benchmarking.labels import label_of, new_sheet, what_varies
from dqlab.benchmarking.record import Record


def draw_roofline(records: Sequence[Record]) -> Any:
    """Bars: floating-point operations a second as a part of the device's measured peak."""
    figure = new_sheet(1.5 + 0.32 * len(records))
    axes = figure.subplots()
    ordered = sorted(records, key=lambda record: (record.part, record.figures["peak_share"]), reverse=True)
    varying = {part: what_varies(members) for part, members in group(records, lambda r: r.part).items()}
    parts = list(varying)
    labels = [f"{record.part}: {label_of(record, varying[record.part])}".rstrip(": ") for record in ordered]
    colors = [f"C{parts.index(record.part)}" for record in ordered]
    bars = axes.barh(range(len(ordered)), [100 * record.figures["peak_share"] for record in ordered], color=colors)
    axes.bar_label(bars, [text.share(record.figures["peak_share"]) for record in ordered], padding=3, fontsize=8)
    axes.set_yticks(range(len(ordered)), labels, fontsize=8)
    axes.margins(x=0.12, y=0.5 / len(records))
    axes.set_axisbelow(True)
    axes.set(title="Share of the measured peak", xlabel=f"% of a large float32 product ({_peaks(records)})")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _peaks(records: Sequence[Record]) -> str:
    """The peak of each device; the median where it was measured in several sessions."""
    by_device = group(records, lambda record: str(record.parameters.get("device", "cpu")))
    rates = {device: statistics.median(r.figures["peak"] for r in members) for device, members in by_device.items()}
    return ", ".join(f"{device}: {text.count(rate)}FLOP/s" for device, rate in rates.items())
