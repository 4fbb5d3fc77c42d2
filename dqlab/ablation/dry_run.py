"""What a grid would do: cells, packs, time and memory."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from dqlab.ablation.calibration import costs_of_packs
from dqlab.ablation.driver import announce_grid
from dqlab.ablation.reporting import report_grid
from dqlab.ablation.session import GridRequest, GridSession, open_session, slots_of
from dqlab.analysis.results import Cell
from dqlab.machine import readable_duration
from dqlab.printing import Console

ENGINE_OPTIONS = {"workers": "LocalEngine.workers", "address": "RayEngine.address"}


def run_ablate(args: argparse.Namespace) -> int:
    """Plan or run a grid; returns the exit code."""
    from dqlab.ablation.driver import ablate

    request = request_of(args)
    if args.report_only:
        report_grid(request, Console(quiet=args.quiet))
        return 0
    if args.dry_run:
        dry_run(request, Console())
        return 0
    return ablate(request, Console(quiet=args.quiet))


def request_of(args: argparse.Namespace) -> GridRequest:
    """What the arguments ask for."""
    chosen = {
        "Grid.engine": args.engine,
        "Grid.seeds": args.seeds and tuple(args.seeds),
        "Grid.tasks": args.tasks and tuple(args.tasks),
        "Training.steps": args.steps,
        "Experiment.device": args.device,
        **{parameter: getattr(args, option) for option, parameter in ENGINE_OPTIONS.items()},
    }
    bindings = [*args.set, *(f"{name}={value!r}" for name, value in chosen.items() if value is not None)]
    return GridRequest(
        files=[args.grid, *args.gin],
        bindings=bindings,
        imports=args.plugin,
        out=args.out or Path("runs") / Path(args.grid).stem,
        reuse=args.reuse,
        force=args.force,
        retry=args.retry,
        report_only=args.report_only,
        command=shlex.join(["dqlab", *sys.argv[1:]]),
    )


SHOWN = 40


def dry_run(request: GridRequest, console: Console) -> None:
    """Show the plan of a grid; nothing is written, nothing fetched.

    Raises:
        DqlabError: a mistake in the grid's file, or a dataset that is not here.
    """
    session = open_session(request, planning_only=True)
    announce_grid(session, console)
    session.costs = costs_of_packs(session.packs, told=lambda text: console.print(text, style="dim"))
    console.print(_cells(session))
    console.print(_packs(session))
    for line in _sums(session):
        console.print(Text(line), soft_wrap=True)


def _cells(session: GridSession) -> Table:
    """A row for every setting on every task."""
    base = session.reader.grid.resolved_base
    rows: dict[tuple[str, str], list[Cell]] = {}
    for planned in session.plan.cells:
        rows.setdefault((planned.cell.label, planned.cell.task), []).append(planned.cell)
    table = Table(title="Cells", title_justify="left")
    for column in ("cell", "task", "seeds", "finished", "failed"):
        table.add_column(column, justify="right" if column in ("finished", "failed") else "left")
    for (label, task), cells in list(rows.items())[:SHOWN]:
        done = sum(cell.id in session.summaries for cell in cells)
        failed = sum(cell.id in session.failures for cell in cells)
        name = label + (" (base)" if label == base else "")
        table.add_row(name, task, _few([cell.seed for cell in cells]), str(done), str(failed))
    if len(rows) > SHOWN:
        table.add_row(f"... and {len(rows) - SHOWN:,} more rows")
    return table


def _few(seeds: list[int]) -> str:
    return " ".join(map(str, seeds[:8])) + (f" ... ({len(seeds)})" if len(seeds) > 8 else "")


def _packs(session: GridSession) -> Table:
    table = Table(title="Packs: cells that are trained together, in one process", title_justify="left")
    gpus = any(cost.gpu_memory for cost in session.costs.values())
    for column in ("pack", "task", "cells", "of", "time, at most", "memory", *(["on the GPU"] if gpus else [])):
        table.add_column(column, justify="left" if column in ("pack", "task", "of") else "right")
    for pack in session.packs[:SHOWN]:
        cost = session.costs[pack.id]
        labels = ", ".join(dict.fromkeys(planned.cell.label for planned in pack.cells))
        time = ("" if cost.measured else "~") + readable_duration(cost.seconds)
        memory = [_bytes(cost.memory), *([_bytes(cost.gpu_memory)] if gpus else [])]
        table.add_row(pack.id[:8], pack.kind.task, str(len(pack.cells)), labels, time, *memory)
    if len(session.packs) > SHOWN:
        table.add_row(f"... and {len(session.packs) - SHOWN:,} more")
    return table


def _sums(session: GridSession) -> list[str]:
    """How long it takes, what it takes, and what these figures leave out."""
    unfetched = [f"Not here yet, fetched when the grid is run: {url}" for url in session.reader.not_fetched or ()]
    if not session.packs:
        return [*unfetched, "Nothing is left to train: the same command without --dry-run writes the report."]
    slots, found = slots_of(session.engine), [session.costs[pack.id] for pack in session.packs]
    work, longest = sum(cost.seconds for cost in found), max(cost.seconds for cost in found)
    lines = [
        f"About {readable_duration(max(work / slots, longest))} at most with {min(slots, len(found))} packs at a time "
        f"({readable_duration(work)} of computing; episodes are counted at full length, which a bad policy's are not).",
        f"About {_bytes(sum(sorted((cost.memory for cost in found), reverse=True)[:slots]))} of memory.",
    ]
    if any(cost.gpu_memory for cost in found) and not torch.cuda.is_available():
        lines.append("The packs are for GPUs, of which there is none here: times are those of this machine's CPU.")
    if any(not cost.measured for cost in found):
        lines.append("~: not measured; as much as the costliest pack that was.")
    return [*lines, *unfetched]


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
