"""Runs a grid: plans it, gives its packs to an engine, shows how it fills up, and reports.

Nothing of a session is kept but what is in the grid's folder: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.text import Text

from dqlab.ablation.calibration import SHORT, costs_of_packs
from dqlab.ablation.engines.base import FINISHED, STOPPED, Ended, Job
from dqlab.ablation.planning import PlannedPack
from dqlab.ablation.progress import GridDisplay, GridProgress
from dqlab.ablation.reporting import report_apart
from dqlab.ablation.session import GridRequest, GridSession, open_session
from dqlab.analysis.results import Cell, Result
from dqlab.errors import PACKAGE, masked
from dqlab.files import write_text
from dqlab.printing import Console
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.mlflow.mirror import Mirror
from dqlab.tracking.mlflow.sync import warn_unsent
from dqlab.tracking.records import FailureRecord, SummaryRecord, read_record

NO_RESULT = "it ended without a result"


def last_score(path: Path) -> float:
    """The last score in a summary."""
    return Result(Cell(""), read_record(path, SummaryRecord)).score("last")


def board_of(session: GridSession) -> GridProgress:
    """The standing of every cell at the start."""
    return GridProgress(
        (planned.cell for planned in session.plan.cells),
        {cell: last_score(path) for cell, path in session.summaries.items()},
        {cell: reason for cell, (_, reason) in session.failures.items()},
        session.packs,
        {name: cost.seconds for name, cost in session.costs.items()},
    )


class ResultCollector:
    """Takes the ends of packs in.

    Args:
        session: whose summaries and failures are kept up to date.
    """

    def __init__(self, session: GridSession) -> None:
        self._session = session
        self._cells = {pack.id: [planned.cell.id for planned in pack.cells] for pack in session.packs}

    def add(self, ended: Ended) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """Last scores of a pack's cells that have finished, and why others have failed; by their ids."""
        finished, failed = {}, {}
        for cell in self._cells[ended.job.id]:
            folder = ended.job.folder / f"cell-{cell}"
            if (summary := folder / "summary.json").exists():
                self._session.summaries[cell] = summary
                finished[cell] = last_score(summary)
            elif failure := _failure(folder, ended):
                self._session.failures[cell] = failure
                failed[cell] = failure[1]
        return finished, failed


def _failure(folder: Path, ended: Ended) -> tuple[str, str] | None:
    """Kind and reason of a failure; None where a cell is only not done yet."""
    if (record := folder / "failure.json").exists():
        known = read_record(record, FailureRecord)
        return known["kind"], known["reason"]
    return None if ended.code == STOPPED else ("crashed", ended.reason if ended.code != FINISHED else NO_RESULT)


EVERY = 5.0
"""Seconds between two updates while packs end."""


class GridRecordWriter:
    """Writes plan, configuration and facts of a grid into its folder.

    Args:
        session: whose grid.
    """

    def __init__(self, session: GridSession) -> None:
        self._session, self._written = session, 0.0
        self._packs: list[str] = []

    @property
    def experiment(self) -> str:
        """MLflow's."""
        return self._session.tracking.experiment or self._session.name

    def begin(self) -> None:
        """Write everything, before anything is run."""
        session = self._session
        session.folder.write_facts(name=session.name)  # from now on this is a grid's folder
        session.folder.write_plan(session.plan, session.packs)
        write_text(session.folder.path / "grid.gin", session.reader.text)
        self._packs = sorted(session.folder.listed())
        grid = session.reader.grid
        session.folder.write_facts(
            name=session.name,
            axes=grid.axis_points,
            labels=[setting.label for setting in grid.settings],
            base=grid.resolved_base,
            tasks=list(dict.fromkeys(planned.cell.task for planned in session.plan.cells)),
            seeds=list(grid.seeds),
            mlflow_experiment=self.experiment,
            **self._address(),
            packs=self._packs,
            gin=session.reader.text,
            cells=len(set(session.ids)),
            data={
                asked: {"digest": data.digest, "caveat": data.caveat} for asked, data in session.reader.found.items()
            },
            elsewhere=self._elsewhere(),
        )
        self.update("running")

    def _address(self) -> dict[str, str]:
        """Where it is recorded, if it is."""
        session = self._session
        return {"mlflow_uri": masked(tracking_uri(session.folder.path))} if session.tracking.mlflow else {}

    def _elsewhere(self) -> dict[str, str]:
        """Folders of finished cells that other grids have trained, by the cell's id."""
        own, found = self._session.folder.packs.resolve(), self._session.summaries.items()
        return {cell: str(path.parent.resolve()) for cell, path in found if own not in path.resolve().parents}

    def update(self, state: str) -> None:
        """Write how far the grid is."""
        session = self._session
        session.folder.write_facts(state=state, finished=len(session.summaries), failed=len(session.failures))
        self._written = time.monotonic()

    def add_seconds(self, seconds: float) -> float:
        """Add the time of this session to those before; their sum."""
        total = self._session.folder.facts().get("seconds", 0.0) + seconds
        self._session.folder.write_facts(seconds=total)
        return total

    def keep_up(self) -> None:
        """The same while it runs, not too often."""
        if time.monotonic() - self._written > EVERY:
            self.update("running")


FIRST = "packs write their checkpoints and end. Ctrl-C ends them at once."
SECOND = "Ending at once; the same command continues from the last checkpoints."


@contextmanager
def stop_on_signal(
    stop: Callable[[], None], say: Callable[[str], None], hours: float = 0.0
) -> Iterator[threading.Event]:
    """Within this, a signal calls `stop` instead of ending the process.

    Args:
        stop: asks an engine; called at every signal.
        say: told what happens.
        hours: after which the same happens by itself; 0: never. More than a timer can wait for (centuries) is cut.

    Yields:
        An event that is set once it has happened.
    """
    stopped = threading.Event()

    def heed(reason: str) -> None:
        told = SECOND if stopped.is_set() else f"{reason}: {FIRST}"
        stopped.set()
        stop()
        with suppress(RuntimeError):  # the signal may have come while something else was printed
            say(told)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: heed("Stopping")) for number in numbers}
    timer = threading.Timer(min(3600 * hours, threading.TIMEOUT_MAX), heed, [f"The grid's {hours:g} hours are over"])
    timer.daemon = True
    if hours:
        timer.start()
    try:
        yield stopped
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


EMBEDDED = PACKAGE / "data" / "embedded"
SHOWN = 10


def ablate(request: GridRequest, console: Console) -> int:
    """Run a grid to its end, or as far as it comes.

    Returns:
        The exit code: 0: every cell has a result; 1: some have failed; 130: it was interrupted.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, wherever it comes
    started = time.monotonic()
    session = open_session(request)
    announce_grid(session, console)
    with console.status("calibrating") if console.is_terminal else nullcontext():
        session.costs = costs_of_packs(session.packs, SHORT)
    record = GridRecordWriter(session)
    record.begin()
    mirror = Mirror(session.folder.path, record.experiment) if session.tracking.mlflow else None
    state = "interrupted"
    try:
        state = _state(session, _run(session, record, console) if session.packs else False)
        record.update(state)
        if session.summaries:
            report_apart(request, console, session.failures, seconds=record.add_seconds(time.monotonic() - started))
    finally:
        record.update(state)
        if mirror is not None and not mirror.close(session.tracking.patience):
            warn_unsent(session.folder.path)
    return _last_words(session, state, console)


def _run(session: GridSession, record: GridRecordWriter, console: Console) -> bool:
    """Let the engine run all packs; returns whether it was interrupted."""
    board, ledger = board_of(session), ResultCollector(session)
    jobs = [job_of(session, pack) for pack in session.packs]
    caveat = "; ".join(sorted({kind.data.caveat for kind in session.plan.kinds.values()} - {""}))
    display = GridDisplay(board, console, f"{session.name} in {session.folder.path}", caveat)

    def tell(job: Job, event: Mapping[str, Any]) -> None:
        display.changed(board.tell(job, event))

    with display, stop_on_signal(session.engine.stop, display.say, session.reader.grid.hours) as stopped:
        for ended in session.engine.run(jobs, tell):
            display.changed(board.ended(ended, *ledger.add(ended)))
            record.keep_up()
    return stopped.is_set()


def job_of(session: GridSession, pack: PlannedPack) -> Job:
    """A pack as an engine sees it."""
    cost, data = session.costs[pack.id], pack.kind.data
    ships = data.path is None or EMBEDDED in data.path.resolve().parents
    return Job(
        pack.id,
        session.folder.packs / pack.id,
        {} if ships or data.path is None else {pack.kind.task: data.path},
        cost.threads,
        cost.memory,
        cost.gpu_memory,
        cost.seconds,
        format=data.format,
    )


def announce_grid(session: GridSession, console: Console) -> None:
    """Say what the grid is, and what of it is to be done."""
    grid, cells = session.reader.grid, set(session.ids)
    told = (
        f"{session.name}: {_count(len(grid.settings), 'setting')} x {_count(len(grid.tasks) or 1, 'task')} x "
        f"{_count(len(grid.seeds), 'seed')} = {_count(len(cells), 'cell')}; {len(session.summaries):,} finished, "
        f"{len(session.failures):,} failed before, {sum(len(pack.cells) for pack in session.packs):,} to train in "
        f"{_count(len(session.packs), 'pack')}"
    )
    console.print(Text(told), soft_wrap=True)
    for first, second in session.plan.same[:SHOWN]:
        console.print(Text(f"'{second}' runs the same as '{first}': trained once."), soft_wrap=True)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _state(session: GridSession, interrupted: bool) -> str:
    if interrupted and session.pending:
        return "interrupted"
    return "incomplete" if session.pending or session.failures else "finished"


def _last_words(session: GridSession, state: str, console: Console) -> int:
    """Say what is missing; the exit code."""
    failed = [each.cell for each in session.plan.cells if each.cell.id in session.failures]
    for cell in failed[:SHOWN]:
        _, reason = session.failures[cell.id]
        console.print(Text(f"✗ {cell.label}, {cell.task}, seed {cell.seed}: {reason}"), soft_wrap=True)
    if len(failed) > SHOWN:
        console.print(f"... and {len(failed) - SHOWN} more failures", soft_wrap=True)
    if not session.summaries:
        console.print("No cell has a result: there is no report.", soft_wrap=True)
    if state == "interrupted":
        left = _count(len(session.pending), "cell")
        console.print(f"Interrupted with {left} to go: the same command continues.", soft_wrap=True)
    return {"finished": 0, "incomplete": 1, "interrupted": 130}[state]
