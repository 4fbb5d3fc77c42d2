"""Runs a grid: plans it, gives its packs to an engine, shows how it fills up, and reports.

Nothing of a session is kept but what is in the grid's folder: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.text import Text

from dqlab.ablation.calibration import SHORT, costs
from dqlab.ablation.display import GridDisplay
from dqlab.ablation.engines.base import Job
from dqlab.ablation.ledger import Ledger, board_of
from dqlab.ablation.planning import Pack
from dqlab.ablation.record import Record
from dqlab.ablation.reporting import report_apart
from dqlab.ablation.session import Request, Session, open_session
from dqlab.ablation.stopping import stopping
from dqlab.console import Console
from dqlab.sending import warn_unsent
from dqlab.tracking.mirror import Mirror

EMBEDDED = Path(__file__).parent.parent / "data" / "embedded"
SHOWN = 10


def ablate(request: Request, console: Console) -> int:
    """Run a grid to its end, or as far as it comes.

    Returns:
        The exit code: 0: every cell has a result; 1: some have failed; 130: it was interrupted.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, wherever it comes
    started = time.monotonic()
    session = open_session(request)
    announce(session, console)
    with console.status("calibrating") if console.is_terminal else nullcontext():
        session.costs = costs(session.packs, SHORT)
    record = Record(session)
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


def _run(session: Session, record: Record, console: Console) -> bool:
    """Let the engine run all packs; returns whether it was interrupted."""
    board, ledger = board_of(session), Ledger(session)
    jobs = [job_of(session, pack) for pack in session.packs]
    caveat = "; ".join(sorted({kind.data.caveat for kind in session.plan.kinds.values()} - {""}))
    display = GridDisplay(board, console, f"{session.name} in {session.folder.path}", caveat)

    def tell(job: Job, event: Mapping[str, Any]) -> None:
        display.changed(board.tell(job, event))

    with display, stopping(session.engine.stop, display.say, session.reader.grid.hours) as stopped:
        for ended in session.engine.run(jobs, tell):
            display.changed(board.ended(ended, *ledger.take_in(ended)))
            record.keep_up()
    return stopped.is_set()


def job_of(session: Session, pack: Pack) -> Job:
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


def announce(session: Session, console: Console) -> None:
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


def _state(session: Session, interrupted: bool) -> str:
    if interrupted and session.pending:
        return "interrupted"
    return "incomplete" if session.pending or session.failures else "finished"


def _last_words(session: Session, state: str, console: Console) -> int:
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
