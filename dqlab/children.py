"""Trying something in a process of its own: a crash or a hang is that process's."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GUARD = """
import os, sys
try:
    exec(compile(sys.argv.pop(1), "<attempt>", "exec"), {"__name__": "__main__"})
    sys.stdout.flush()
except BaseException as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)
os._exit(0)
"""
"""Ends at once: what libraries do and say at an interpreter's end is of no interest."""
LAST = 200
"""Characters of what a process said last that are told."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        output: its standard output.
        trouble: what went wrong, in one line; empty where nothing did.
    """

    output: str
    trouble: str

    @property
    def fine(self) -> bool:
        """Whether it ended well."""
        return not self.trouble


def attempt(code: str, *args: str, timeout: float, env: Mapping[str, str | None] | None = None) -> Outcome:
    """Run Python code in a process of its own.

    Args:
        code: the program.
        args: its `sys.argv[1:]`.
        timeout: seconds after which it is killed, with whatever it started.
        env: changes of the environment; None unsets a variable.
    """
    return attempt_command([sys.executable, "-c", GUARD, code, *args], timeout=timeout, env=env)


def attempt_command(command: Sequence[str], *, timeout: float, env: Mapping[str, str | None] | None = None) -> Outcome:
    """Run a command; arguments as in `attempt`."""
    changed = {**os.environ, **(env or {})}
    given = {name: value for name, value in changed.items() if value is not None}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=given,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Outcome("", f"{command[0]}: {error.strerror}")
    _running.add(process)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return Outcome("", f"no answer within {timeout:.0f} s")
    finally:
        _end(process)
    return Outcome(output, _trouble(process.returncode, errors) if process.returncode else "")


_running: set[subprocess.Popen[str]] = set()


@atexit.register
def _end_all() -> None:
    """None outlives this process, however it is interrupted."""
    for process in list(_running):
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """It and its own children."""
    _running.discard(process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _trouble(code: int, errors: str) -> str:
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    if code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    return said[-1][-LAST:] if said else f"exit code {code}"
