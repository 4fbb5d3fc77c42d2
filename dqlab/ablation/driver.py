"""Runs a grid: plans it, gives its packs to an engine, shows how it fills up, and reports.

Nothing of a session is kept but what is in the grid's folder: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from dqlab.ablation.calibration import SHORT, costs_of_packs
from dqlab.ablation.display import GridDisplay, announce_grid, say_what_is_missing
from dqlab.ablation.engines.base import Job
from dqlab.ablation.planning import PlannedPack
from dqlab.ablation.progress import GridProgress, read_last_score
from dqlab.ablation.report import report_apart
from dqlab.ablation.session import GridRequest, GridSession, open_session
from dqlab.analysis.results import FINISHED, RUNNING
from dqlab.errors import PACKAGE
from dqlab.printing import Console
from dqlab.tracking.mlflow.mirror import Mirror, warn_unsent

EXIT_CODES = {"finished": 0, "incomplete": 1, "interrupted": 130}


def ablate(request: GridRequest, console: Console) -> int:
    """Run a grid to its end, or as far as it comes: plan, run, report.

    Returns:
        The exit code: 0: every cell has a result; 1: some have failed; 130: it was interrupted.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, wherever it comes
    try:
        return _ablate(request, console)
    finally:
        signal.signal(signal.SIGTERM, before)


def _ablate(request: GridRequest, console: Console) -> int:
    started = time.monotonic()
    session = open_session(request)
    announce_grid(session, console)
    with console.status("calibrating") if console.is_terminal else nullcontext():
        session.costs = costs_of_packs(session.packs, SHORT)
    with recorded(session):
        interrupted = run_packs(session, console) if session.packs else False
        session.record_end(interrupted, time.monotonic() - started)
        if session.in_state(FINISHED):
            report_apart(request, console)
    say_what_is_missing(session, console)
    return EXIT_CODES[session.state]


@contextmanager
def recorded(session: GridSession) -> Iterator[None]:
    """Within this a grid is recorded: in its folder and, unless that is switched off, in MLflow."""
    session.record_plan()
    mirror = Mirror(session.folder.path, session.experiment) if session.tracking.mlflow else None
    try:
        yield
    finally:
        if session.state == RUNNING:
            session.record_state("interrupted")
        if mirror is not None and not mirror.close(session.tracking.patience):
            warn_unsent(session.folder.path)


def run_packs(session: GridSession, console: Console) -> bool:
    """Let the engine run all packs, and keep the session's cells up to date; returns whether it was interrupted."""
    for status in session.in_state(FINISHED):
        assert status.folder is not None
        status.last_score = read_last_score(status.folder)
    seconds = {name: cost.seconds for name, cost in session.costs.items()}
    progress = GridProgress(session.cells, session.packs, seconds)
    caveat = "; ".join(sorted({kind.data.caveat for kind in session.plan.kinds.values()} - {""}))
    display = GridDisplay(progress, console, f"{session.request.name} in {session.folder.path}", caveat)

    def on_event(job: Job, event: Mapping[str, Any]) -> None:
        display.show_changes(progress.on_event(job, event))

    jobs = [job_of(session, pack) for pack in session.packs]
    with display, stop_on_signal(session.engine.stop, display.say, session.resolver.grid.hours) as stopped:
        for ended in session.engine.run(jobs, on_event):
            display.show_changes(progress.on_end(ended))
            session.record_now_and_then()
    return stopped.is_set()


EMBEDDED = PACKAGE / "data" / "embedded"


def job_of(session: GridSession, pack: PlannedPack) -> Job:
    """A pack as an engine sees it."""
    cost, data = session.costs[pack.id], pack.kind.data
    ships = data.path is None or EMBEDDED in data.path.resolve().parents
    return Job(
        pack.id,
        session.folder.packs / pack.id,
        () if ships or data.path is None else (data.path,),
        cost.threads,
        cost.memory,
        cost.gpu_memory,
        cost.seconds,
    )


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
