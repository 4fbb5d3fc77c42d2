"""What is said of a grid as a whole: what it is, what it would do (cells, packs, time, memory), what is missing."""

from __future__ import annotations

import torch
from rich.table import Table
from rich.text import Text

from dqlab.ablation.calibration import costs_of_packs
from dqlab.ablation.session import GridRequest, GridSession, open_session, slots_of
from dqlab.analysis.results import FAILED, FINISHED, Cell
from dqlab.machine import readable_duration
from dqlab.printing import Console

SHOWN, FEW = 40, 10
"""Rows of a table, and lines, after which the others are only counted."""


def announce_grid(session: GridSession, console: Console) -> None:
    """Say what the grid is, and what of it is to be done."""
    grid = session.reader.grid
    finished, failed = (len(session.in_state(state)) for state in (FINISHED, FAILED))
    cells = sum(len(pack.cells) for pack in session.packs)
    told = (
        f"{session.name}: {_count(len(grid.settings), 'setting')} x {_count(len(grid.tasks) or 1, 'task')} x "
        f"{_count(len(grid.seeds), 'seed')} = {_count(len(session.cells), 'cell')}; {finished:,} finished, "
        f"{failed:,} failed before, {cells:,} to train in {_count(len(session.packs), 'pack')}"
    )
    console.print(Text(told), soft_wrap=True)
    for first, second in session.plan.same[:FEW]:
        console.print(Text(f"'{second}' runs the same as '{first}': trained once."), soft_wrap=True)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def say_what_is_missing(session: GridSession, state: str, console: Console) -> None:
    """Name the cells that failed, and say how many are still to go."""
    failed = [cell for cell in session.plan.cells if session.cells[cell.id].state == FAILED]
    for cell in failed[:FEW]:
        reason = session.cells[cell.id].reason
        console.print(Text(f"✗ {cell.label}, {cell.task}, seed {cell.seed}: {reason}"), soft_wrap=True)
    if len(failed) > FEW:
        console.print(f"... and {len(failed) - FEW} more failures", soft_wrap=True)
    if not session.in_state(FINISHED):
        console.print("No cell has a result: there is no report.", soft_wrap=True)
    if state == "interrupted":
        left = _count(len(session.pending), "cell")
        console.print(f"Interrupted with {left} to go: the same command continues.", soft_wrap=True)


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
    for cell in session.plan.cells:
        rows.setdefault((cell.label, cell.task), []).append(cell)
    table = Table(title="Cells", title_justify="left")
    for column in ("cell", "task", "seeds", "finished", "failed"):
        table.add_column(column, justify="right" if column in ("finished", "failed") else "left")
    for (label, task), cells in list(rows.items())[:SHOWN]:
        states = [session.cells[cell.id].state for cell in cells]
        name = label + (" (base)" if label == base else "")
        table.add_row(
            name, task, _few([cell.seed for cell in cells]), *(str(states.count(state)) for state in (FINISHED, FAILED))
        )
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
        labels = ", ".join(dict.fromkeys(cell.label for cell in pack.cells))
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
