"""How far a grid is, from the events of its packs, and what a person sees of it: plan, cells, what is missing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dqlab.ablation.engines.base import FINISHED as ENDED_WELL
from dqlab.ablation.engines.base import STOPPED, Ended, Job, slots_of
from dqlab.ablation.planning import PlannedPack
from dqlab.analysis.results import FAILED, FINISHED, RUNNING, STARTING, WAITING, CellStatus
from dqlab.config.plugins import changed_sources, plugin_sources
from dqlab.errors import DqlabError
from dqlab.machine import readable_duration
from dqlab.printing import Console, counted
from dqlab.tracking.records import FailureRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from dqlab.ablation.driver import GridSession
SHOWN, FEW = 40, 10  # rows of a table, and lines, after which the others are only counted


def _follow(status: CellStatus, event: Mapping[str, Any], steps: float) -> None:
    """What an event means for one of the cells of its pack, which takes so many updates; a failed one has ended."""
    if status.state == FAILED:
        return
    match event.get("event"):
        case "starting":
            status.state = STARTING
        case "started" | "progress":
            status.state, status.share = RUNNING, float(event["step"]) / steps if steps else 0.0
        case "evaluated":
            status.last_score = event["scores"].get(status.cell.replica, status.last_score)
        case "cell_failed" if status.cell.replica == event["replica"]:
            status.state, status.reason = FAILED, str(event["reason"])


def _read_outcome(status: CellStatus, ended: Ended) -> None:
    """How a cell of a pack that has ended did, by its files; it waits again where it is only not done yet."""
    folder = ended.job.folder / status.cell.replica
    if (folder / "summary.json").exists():
        status.last_score = read_last_score(folder)
        status.finish(folder)
    elif (record := folder / "failure.json").exists():
        known = read_record(record, FailureRecord)
        status.fail(known["kind"], known["reason"])
    elif ended.code != STOPPED:
        status.fail("crashed", ended.reason if ended.code != ENDED_WELL else "it ended without a result")
    else:
        status.wait()


def read_last_score(folder: Path) -> float:
    """The last score in the summary of a finished cell."""
    return float(read_record(folder / "summary.json", SummaryRecord)["selection"]["last"]["score_mean"])


def announce_grid(session: GridSession, console: Console) -> None:
    """Say what the grid is, and what of it is to be done."""
    grid = session.resolver.grid
    finished, failed = (len(session.in_state(state)) for state in (FINISHED, FAILED))
    cells = sum(len(pack.cells) for pack in session.packs)
    told = (
        f"{session.request.name}: {counted(len(grid.settings), 'setting')} x {counted(len(grid.tasks) or 1, 'task')} x "
        f"{counted(len(grid.seeds), 'seed')} = {counted(len(session.cells), 'cell')}; {finished:,} finished, "
        f"{failed:,} failed before, {cells:,} to train in {counted(len(session.packs), 'pack')}"
    )
    console.print(Text(told), soft_wrap=True)
    packs = Counter(status.folder.parent for status in session.in_state(FINISHED) if status.folder)
    changed, now = Counter[str](), plugin_sources()
    for pack, count in packs.items():
        with suppress(DqlabError):  # it is told where the pack is read
            changed.update(dict.fromkeys(changed_sources(RunFolder(pack).facts(), now), count))
    for name, count in changed.items():  # a cell's id does not show it
        told = f"warning: {counted(count, 'cell')} finished before {name} was changed. --force trains all cells again."
        console.print(Text(told), soft_wrap=True)
    for first, second in session.plan.same[:FEW]:
        console.print(Text(f"'{second}' runs the same as '{first}': trained once."), soft_wrap=True)


def say_what_is_missing(session: GridSession, console: Console) -> None:
    """Name the cells that failed, and say how many are still to go."""
    failed = [cell for cell in session.plan.cells if session.cells[cell.id].state == FAILED]
    for cell in failed[:FEW]:
        reason = session.cells[cell.id].reason
        console.print(Text(f"✗ {cell.label}, {cell.task}, seed {cell.seed}: {reason}"), soft_wrap=True)
    if len(failed) > FEW:
        console.print(f"... and {len(failed) - FEW} more failures", soft_wrap=True)
    if not session.in_state(FINISHED):
        console.print("No cell has a result: there is no report.", soft_wrap=True)
    if session.state == "interrupted":
        left = counted(len(session.pending), "cell")
        console.print(f"Interrupted with {left} to go: the same command continues.", soft_wrap=True)


def show_plan(session: GridSession, console: Console) -> None:
    """Show the cells of a grid whose packs have been measured, and what they take."""
    table = Table(title="Cells", title_justify="left")
    for column in ("cell", "task", "seeds", "finished", "failed"):
        table.add_column(column, justify="right" if column in ("finished", "failed") else "left")
    rows = [list(seeds) for _, seeds in groupby(session.plan.cells, lambda cell: (cell.label, cell.task))]
    for row in rows[:SHOWN]:
        states, name = [session.cells[cell.id].state for cell in row], row[0].label
        base = " (base)" if name == session.resolver.grid.resolved_base else ""
        seeds = " ".join(str(cell.seed) for cell in row[:8]) + (f" ... ({len(row)})" if len(row) > 8 else "")
        table.add_row(name + base, row[0].task, seeds, *(str(states.count(state)) for state in (FINISHED, FAILED)))
    if len(rows) > SHOWN:
        table.add_row(f"... and {len(rows) - SHOWN:,} more rows")
    console.print(table)
    lines = ["Nothing is left to train: the same command without --dry-run writes the report."]
    if costs := [session.costs[pack.id] for pack in session.packs]:
        slots, work, longest = slots_of(session.engine), sum(c.seconds for c in costs), max(c.seconds for c in costs)
        lines = [
            f"About {readable_duration(max(work / slots, longest))} at most with "
            f"{counted(min(slots, len(costs)), 'pack')} at a time ({readable_duration(work)} of computing; "
            "episodes are counted at full length, which a bad policy's are not).",
            f"About {sum(sorted((c.memory for c in costs), reverse=True)[:slots]) / 2**30:.1f} GiB of memory.",
        ]
        if on_gpu := max(cost.gpu_memory for cost in costs):
            lines.append(f"About {on_gpu / 2**30:.1f} GiB on a GPU, for the largest pack.")
        if on_gpu and not torch.cuda.is_available():
            lines.append("The packs are for GPUs, of which there is none here: times are those of this machine's CPU.")
    lines += [f"Not here yet, fetched when the grid is run: {url}" for url in session.resolver.not_fetched or ()]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


class GridDisplay(Progress):
    """Keeps cells, by their ids, up to date while packs are run: a bar, and a line for each that begins or ends.

    `note` is what must stand beside every score ("not D4RL").
    """

    def __init__(
        self, cells: Mapping[str, CellStatus], packs: Sequence[PlannedPack], console: Console, title: str, note: str
    ) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        hidden = not console.is_terminal or console.quiet
        super().__init__(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=3600, disable=hidden)
        self.cells, self._note = cells, f" ({note})" if note else ""
        self._packs = {pack.id: [cells[cell.id] for cell in pack.cells] for pack in packs}
        self._steps: dict[str, float] = {}
        self._changing = threading.Lock()
        self._task = self.add_task(title, total=len(cells), completed=self.done())  # type: ignore[arg-type]

    def done(self) -> float:
        """How many cells' worth of updates are done; a failed one counts as done."""
        return sum(1.0 if status.state == FAILED else status.share for status in self.cells.values())

    def on_event(self, job: Job, event: Mapping[str, Any]) -> None:
        """Follow an event of a pack, from any thread."""
        steps = self._steps[job.id] = float(event.get("steps", self._steps.get(job.id, 0.0)))
        self._change(job, lambda status: _follow(status, event, steps))

    def on_end(self, ended: Ended) -> None:
        """Read what a pack that has ended left of its cells."""
        self._change(ended.job, lambda status: _read_outcome(status, ended))

    def _change(self, job: Job, change: Callable[[CellStatus], None]) -> None:
        """Change the cells of a pack, and tell of those whose state is another one then."""
        with self._changing:
            before = [(status, status.state) for status in self._packs[job.id]]
            for status, _ in before:
                change(status)
            changed = [status for status, state in before if status.state not in (state, WAITING)]
        self.update(self._task, completed=self.done())
        for status in changed:  # a terminal that is stopped holds up one pack, not all
            cell, states = status.cell, [each.state for each in self.cells.values()]
            scored = status.last_score is not None and status.state != FAILED
            score = f"  score {status.last_score:.1f}{self._note}" if scored else ""
            why = f"  {status.reason}" if status.reason else ""
            text = f"[{states.count(FINISHED)}/{len(states)}] {cell.label}  {cell.task}  seed {cell.seed}"
            self.say(f"{text}  {status.state}{score}{why}")

    def say(self, text: str) -> None:
        """Something that concerns the whole grid."""
        self.console.print(Text(text), soft_wrap=True)
