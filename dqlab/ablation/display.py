"""How far a grid is, from the events of its packs, and what a person sees of it: plan, cells, what is missing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

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


def announce_grid(session: GridSession, console: Console) -> None:
    """Say what the grid is, and what of it is to be done."""
    grid, done = session.resolver.grid, session.in_state(FINISHED)
    cells = sum(len(pack.cells) for pack in session.packs)
    console.say(
        f"{session.request.name}: {counted(len(grid.settings), 'setting')} x {counted(len(grid.tasks) or 1, 'task')} x "
        f"{counted(len(grid.seeds), 'seed')} = {counted(len(session.cells), 'cell')}; {len(done):,} finished, "
        f"{len(session.in_state(FAILED)):,} failed before, {cells:,} to train in {counted(len(session.packs), 'pack')}"
    )
    changed, now = Counter[str](), plugin_sources()
    for pack, count in Counter(status.folder.parent for status in done if status.folder).items():
        with suppress(DqlabError):  # it is told where the pack is read
            changed.update(dict.fromkeys(changed_sources(RunFolder(pack).facts(), now), count))
    for name, count in changed.items():  # a cell's id does not show it
        about = f"{counted(count, 'cell')} finished before {name} was changed"
        console.say(f"warning: {about}. --force trains all cells again.")
    for first, second in session.plan.same[:FEW]:
        console.say(f"'{second}' runs the same as '{first}': trained once.")


def say_what_is_missing(session: GridSession, console: Console) -> None:
    """Name the cells that failed, and say how many are still to go."""
    failed = [(cell, status) for cell in session.plan.cells if (status := session.cells[cell.id]).state == FAILED]
    for cell, status in failed[:FEW]:
        console.say(f"✗ {cell.label}, {cell.task}, seed {cell.seed}: {status.reason}")
    if len(failed) > FEW:
        console.say(f"... and {len(failed) - FEW} more failures")
    if not session.in_state(FINISHED):
        console.say("No cell has a result: there is no report.")
    if session.state == "interrupted":
        console.say(f"Interrupted with {counted(len(session.pending), 'cell')} to go: the same command continues.")


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
    if jobs := session.jobs:
        slots, seconds = slots_of(session.engine), [job.seconds for job in jobs]
        lines = [
            f"About {readable_duration(max(sum(seconds) / slots, max(seconds)))} with "
            f"{counted(min(slots, len(jobs)), 'pack')} at a time ({readable_duration(sum(seconds))} of computing).",
            "It is estimated from a few updates and actions: compiled updates and episodes that end early take less, "
            "stepping the environments comes on top.",
            f"About {sum(sorted((job.memory for job in jobs), reverse=True)[:slots]) / 2**30:.1f} GiB of memory.",
        ]
        if any(job.gpu_memory for job in jobs) and not torch.cuda.is_available():
            lines.append("The packs are for GPUs, of which there is none here: times are those of this machine's CPU.")
    lines += [f"Not here yet, fetched when the grid is run: {url}" for url in session.resolver.not_fetched or ()]
    for line in lines:
        console.say(line)


class GridDisplay(Progress):
    """Keeps cells, by their ids, up to date while packs are run: a bar, and a line for each that begins or ends."""

    def __init__(
        self, cells: Mapping[str, CellStatus], packs: Sequence[PlannedPack], console: Console, title: str, note: str
    ) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        hidden = not console.is_terminal or console.quiet
        super().__init__(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=3600, disable=hidden)
        self.cells, self._console, self._note = cells, console, f" ({note})" if note else ""  # "not D4RL"
        self._packs = {pack.id: [cells[cell.id] for cell in pack.cells] for pack in packs}
        self._steps: dict[str, float] = {}
        self._lock_of_cells = threading.Lock()
        self._task = self.add_task(title, total=len(cells), completed=self.done())  # type: ignore[arg-type]

    def done(self) -> float:
        """How many cells' worth of updates are done; a failed one counts as done."""
        return sum(1.0 if status.state == FAILED else status.share for status in self.cells.values())

    def on_event(self, job: Job, event: Mapping[str, Any]) -> None:
        """Follow an event of a pack, from any thread; a cell that has failed has ended."""
        steps = self._steps[job.id] = float(event.get("steps", self._steps.get(job.id, 0.0)))
        with self._changing(job) as cells:
            for status in (each for each in cells if each.state != FAILED):
                match event.get("event"):
                    case "starting":
                        status.state = STARTING
                    case "started" | "progress":
                        status.state, status.share = RUNNING, float(event["step"]) / steps if steps else 0.0
                    case "evaluated":
                        status.last_score = event["scores"].get(status.cell.replica, status.last_score)
                    case "cell_failed" if status.cell.replica == event["replica"]:
                        status.state, status.reason = FAILED, str(event["reason"])

    def on_end(self, ended: Ended) -> None:
        """Read how the cells of a pack that has ended did, by their files; what is only not done yet waits again."""
        with self._changing(ended.job) as cells:
            for status in cells:
                folder = ended.job.folder / status.cell.replica
                if (folder / "summary.json").exists():
                    summary = read_record(folder / "summary.json", SummaryRecord)
                    status.last_score = float(summary["selection"]["last"]["score_mean"])
                    status.finish(folder)
                elif (folder / "failure.json").exists():
                    failure = read_record(folder / "failure.json", FailureRecord)
                    status.fail(failure["kind"], failure["reason"])
                elif ended.code != STOPPED:
                    status.fail("crashed", ended.reason if ended.code != ENDED_WELL else "it ended without a result")
                else:
                    status.wait()

    @contextmanager
    def _changing(self, job: Job) -> Iterator[list[CellStatus]]:
        """Within this, the cells of a pack are changed; then those are told of whose state is another one."""
        cells = self._packs[job.id]
        with self._lock_of_cells:
            before = [status.state for status in cells]
            yield cells
            changed = [each for each, state in zip(cells, before, strict=True) if each.state not in (state, WAITING)]
        self.update(self._task, completed=self.done())
        for status in changed:  # a terminal that is stopped holds up one pack, not all
            cell, states = status.cell, [each.state for each in self.cells.values()]
            scored = status.last_score is not None and status.state != FAILED
            score = f"  score {status.last_score:.1f}{self._note}" if scored else ""
            why = f"  {status.reason}" if status.reason else ""
            text = f"[{states.count(FINISHED)}/{len(states)}] {cell.label}  {cell.task}  seed {cell.seed}"
            self._console.say(f"{text}  {status.state}{score}{why}")
