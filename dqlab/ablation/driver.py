"""Runs a grid: plans it, gives its packs to an engine, shows how it fills up, and reports.

Nothing of a session is kept but what is in the grid's folder: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dqlab.ablation.board import Board
from dqlab.ablation.calibration import SHORT, costs
from dqlab.ablation.collecting import collect, last_score
from dqlab.ablation.display import GridDisplay
from dqlab.ablation.engines.base import FINISHED, SOME_FAILED, STOPPED, Ended, Job
from dqlab.ablation.planning import Pack
from dqlab.ablation.results import GridResults
from dqlab.ablation.session import Request, Session, open_session
from dqlab.files import write_text
from dqlab.tracking.mirror import Mirror
from dqlab.tracking.mlflow import tracking_uri

EMBEDDED = Path(__file__).parent.parent / "data" / "embedded"


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
    )


def ablate(request: Request, console: Console) -> int:
    """Run a grid to its end, or as far as it comes; returns the exit code.

    Returns:
        0: every cell has a result; 1: some have failed; 130: it was interrupted.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    started = time.monotonic()
    session = open_session(request)
    announce(session, console)
    with console.status("calibrating") if console.is_terminal else _nothing():
        session.costs = costs(session.packs, SHORT)
    session.folder.write_plan(session.plan, session.packs)
    write_text(session.folder.path / "grid.gin", session.reader.text)
    _write_facts(session, "running")
    mirror = Mirror(session.folder.path, _experiment(session)) if session.tracking.mlflow else None
    interrupted = _run(session, console) if session.packs else False
    results = collect(
        session.name,
        session.reader,
        session.plan,
        session.summaries,
        session.failures,
        {"seconds": time.monotonic() - started, "command": f"dqlab ablate --grid {request.files[0]}"},
    )
    code = _finish(session, results, interrupted, console)
    if mirror is not None and not mirror.close(session.tracking.patience):
        console.print(f"MLflow does not have all of it yet. Later: dqlab sync {session.folder.path}", soft_wrap=True)
    return code


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _experiment(session: Session) -> str:
    return session.tracking.experiment or session.name


def _write_facts(session: Session, state: str) -> None:
    grid, plan = session.reader.grid, session.plan
    session.folder.write_facts(
        name=session.name,
        state=state,
        axes=grid.axis_points,
        labels=[setting.label for setting in grid.settings],
        base=grid.the_base,
        tasks=list(dict.fromkeys(planned.cell.task for planned in plan.cells)),
        seeds=list(grid.seeds),
        mlflow_experiment=_experiment(session),
        mlflow_uri=tracking_uri(session.folder.path),
        packs=sorted(session.folder.listed()),
        gin=session.reader.text,
        cells=len(set(session.ids)),
        finished=len(session.summaries),
        failed=len(session.failures),
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
    for first, second in session.plan.same[:5]:
        console.print(Text(f"'{second}' runs the same as '{first}': trained once."), soft_wrap=True)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _run(session: Session, console: Console) -> bool:
    """Let the engine run all packs; returns whether it was interrupted."""
    jobs = [job_of(session, pack) for pack in session.packs]
    board = Board(
        (planned.cell for planned in session.plan.cells),
        {cell: last_score(path) for cell, path in session.summaries.items()},
        {cell: reason for cell, (_, reason) in session.failures.items()},
        session.packs,
        {name: cost.seconds for name, cost in session.costs.items()},
    )
    title = f"{session.name} in {session.folder.path}"
    caveat = "; ".join(sorted({kind.data.caveat for kind in session.plan.kinds.values()} - {""}))
    with GridDisplay(board, console, title, caveat) as display, _stopping(session, display) as stopped:

        def tell(job: Job, event: Mapping[str, Any]) -> None:
            display.changed(board.tell(job, event))

        for ended in session.engine.run(jobs, tell):
            _take_in(session, ended)
            finished = {
                cell: last_score(path) for cell, path in session.summaries.items() if cell in _cells(session, ended)
            }
            reasons = {cell: reason for cell, (_, reason) in session.failures.items()}
            display.changed(board.ended(ended, finished, reasons))
            _write_facts(session, "running")
    return stopped.is_set()


def _cells(session: Session, ended: Ended) -> set[str]:
    """Ids of a job's cells."""
    return {p.cell.id for pack in session.packs if pack.id == ended.job.id for p in pack.cells}


def _take_in(session: Session, ended: Ended) -> None:
    """Note the results and failures of a job that has ended."""
    own = _cells(session, ended)
    folder = ended.job.folder
    for cell in own:
        summary, failure = (folder / f"cell-{cell}" / name for name in ("summary.json", "failure.json"))
        if summary.exists():
            session.summaries[cell] = summary
        elif failure.exists():
            session.failures[cell] = ("diverged", session.folder.failed()[cell]["reason"])
        elif ended.code != STOPPED:
            reason = ended.reason or ("it ended without a result" if ended.code in (FINISHED, SOME_FAILED) else "")
            session.failures[cell] = ("crashed", reason)


@contextmanager
def _stopping(session: Session, display: GridDisplay) -> Iterator[threading.Event]:
    """Within this, Ctrl-C, SIGTERM and the grid's limit of hours ask packs to end; a second Ctrl-C kills them."""
    stopped = threading.Event()

    def stop(reason: str) -> None:
        if stopped.is_set():
            display.say("Stopped at once; the same command continues from the last checkpoints.")
        else:
            display.say(
                f"{reason}: packs write their checkpoints at their next log, and end. Ctrl-C ends them at once."
            )
        stopped.set()
        session.engine.stop()

    before = {number: signal.signal(number, lambda *_: stop("Stopping")) for number in (signal.SIGINT, signal.SIGTERM)}
    hours = session.reader.grid.hours
    timer = threading.Timer(3600 * hours, stop, [f"The grid's {hours} hours are over"]) if hours else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield stopped
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(session: Session, results: GridResults, interrupted: bool, console: Console) -> int:
    """Write the report, say what has come of it; the exit code."""
    from dqlab.ablation.closing import close

    state = (
        "interrupted"
        if interrupted and results.pending
        else "incomplete"
        if results.pending or results.failures
        else "finished"
    )
    if results.results:
        close(results, session.settings, session.folder.report, console)
    _write_facts(session, state)
    if state == "interrupted":
        console.print(
            f"Interrupted with {len(results.pending)} cells to go: the same command continues.", soft_wrap=True
        )
        return 130
    for failure in results.failures[:10]:
        console.print(
            Text(f"✗ {failure.cell.label}, {failure.cell.task}, seed {failure.cell.seed}: {failure.reason}"),
            soft_wrap=True,
        )
    return 0 if state == "finished" else 1
