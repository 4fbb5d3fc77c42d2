"""The report of a grid, made in a process of its own: the one that drives the grid stays small."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dqlab.ablation.session import Request, open_session
from dqlab.console import Console
from dqlab.errors import DqlabError, RunError, message_of
from dqlab.printing import masked, printable

Crashes = Mapping[str, tuple[str, str]]
"""Kind and reason of failures that the grid's folder does not know of, by the cell's id."""


def report(request: Request, console: Console, crashes: Crashes | None = None, **facts: Any) -> None:
    """Report what there is of a grid.

    Args:
        request: as for a run.
        console: where the table goes.
        crashes: failures that left nothing behind.
        facts: of the session that has run it.

    Raises:
        DqlabError: there is nothing to report, or the report cannot be written.
    """
    from dqlab.ablation.closing import close
    from dqlab.ablation.collecting import collect

    session = open_session(replace(request, report_only=True), planning_only=True)
    if not session.summaries:
        others = len(session.folder.finished())
        hint = (
            f" {others} of other settings {'has' if others == 1 else 'have'}: to report them, give the same --gin, "
            "--set, --steps, --seeds and --tasks as when they were trained."
        )
        told = f"No cell of the grid has finished in {request.out}: there is nothing to report yet."
        raise RunError(told + (hint if others else ""))
    failures = {**session.failures, **(crashes or {})}
    known = {"command": request.command, **facts}
    results = collect(session.name, session.reader, session.plan, session.summaries, failures, known)
    close(results, session.settings, session.folder.report, console)


def report_apart(request: Request, console: Console, crashes: Crashes, **facts: Any) -> None:
    """The same in a process of its own.

    Raises:
        RunError: it failed; it has said why.
    """
    size = (console.width, console.quiet, console.is_terminal)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(request, size, dict(crashes), facts))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        raise
    if process.exitcode:
        raise RunError(f"There is no report in {request.out}. Make it with the same command and --report-only.")


def _child(request: Request, size: tuple[int, bool, bool], crashes: Crashes, facts: Mapping[str, Any]) -> None:
    from dqlab.plugins import load_plugins

    width, quiet, terminal = size
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; who waits for this ends it
    load_plugins()
    try:
        report(request, Console(width=width, quiet=quiet, force_terminal=terminal), crashes, **facts)
    except (DqlabError, OSError) as error:
        print(f"dqlab: error: {printable(masked(message_of(error)))}", file=sys.stderr)
        sys.exit(2)
