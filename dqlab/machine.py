"""What this machine has to spare, and which versions are installed on it."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
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


class IsolatedOutcome(NamedTuple):
    """How a process ended: its standard output, and what went wrong, in one line; empty where nothing did."""

    output: str
    trouble: str


def run_isolated(code: str, *args: str, timeout: float, env: Mapping[str, str | None] = {}) -> IsolatedOutcome:
    """Run Python code in a process of its own, `args` its `sys.argv[1:]`; the rest as `attempt_command` takes it."""
    return attempt_command([sys.executable, "-c", GUARD, code, *args], timeout=timeout, env=env)


def attempt_command(command: Sequence[str], *, timeout: float, env: Mapping[str, str | None] = {}) -> IsolatedOutcome:
    """Run a command; after `timeout` seconds it and what it started are killed. In `env`, None unsets a variable."""
    from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired  # not for --help

    given = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    try:
        process = Popen(
            command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=given, errors="replace", start_new_session=True
        )
    except OSError as error:
        return IsolatedOutcome("", f"{command[0]}: {error.strerror}")
    try:
        output, errors = process.communicate(timeout=timeout)
    except TimeoutExpired:
        return IsolatedOutcome("", f"no answer within {timeout:.0f} s")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it and its own children
            process.communicate()
    code, said = process.returncode, [line.strip() for line in errors.splitlines() if line.strip()]
    if code < 0:
        return IsolatedOutcome(output, f"it crashed ({signal.Signals(-code).name})")
    return IsolatedOutcome(output, (said[-1][-200:] if said else f"exit code {code}") if code else "")


def forked(function: Callable[[], object], *, seconds: int) -> str:
    """Call a function in a forked child, with so many seconds of a processor; the signal it died by, or nothing."""
    with suppress(OSError):  # no more processes, or nobody may wait for one: nothing is known then
        if child := os.fork():
            status = os.waitpid(child, 0)[1]
            return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""
        with suppress(BaseException):
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            function()
        os._exit(0)
    return ""


CGROUP = Path("/sys/fs/cgroup")
GPU_SHARE = "DQLAB_GPU_SHARE"
"""Environment variable: the share of a GPU's memory that a process may take; whoever starts several on one sets it."""


def package_version(package: str) -> str:
    """A package's version, in words."""
    from importlib.metadata import PackageNotFoundError, version  # a third of the time of --help

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CPUINFO = Path("/proc/cpuinfo")


def processor_family() -> tuple[str, int]:
    """Vendor and family of the processor, as Linux on x86 says them; elsewhere nothing and 0."""
    if not CPUINFO.exists():
        return "", 0
    with CPUINFO.open() as listing:  # of the first processor: Linux writes each one's lines when they are read
        lines = [line.partition(":") for line in takewhile(str.strip, listing)]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return facts.get("vendor_id", ""), int(facts.get("cpu family", 0))


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors may take on a device; of a GPU that is shared, what is left of this process's share."""
    if device.type != "cuda":
        return available_memory()
    import torch

    free, total = torch.cuda.mem_get_info(device)
    share = float(os.environ.get(GPU_SHARE, 1.0))
    return int(min(free, total * share - torch.cuda.memory_reserved(device)))


def available_memory() -> int:
    """Bytes that new data may take without swapping: what the system has, and what this container may have."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        system = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of what is built in
        system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with suppress(OSError, ValueError, KeyError):  # a control group, version 2; files that are only cached do not count
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        system = min(system, int((CGROUP / "memory.max").read_text()) - used + int(stat["inactive_file"]))
    return max(0, system)


def in_words(count: int) -> str:
    """Bytes for people, such as `1.3 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"


def readable_duration(seconds: float) -> str:
    """A time span for people: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SECONDS = 8.0  # after which a process ends that has not heeded: its update, or a step of its environment, takes so long


class StopRequest:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.saves = False  # there is something to save: a signal sets the event; until then it ends all as Ctrl-C
        self.number = 0  # the signal's, 0 for none


@contextmanager
def handled_signals(heed: Callable[[int, Any], object], *numbers: int) -> Iterator[None]:
    """Within this, `heed` is called with the number of each of these signals that comes; then it is as it was."""
    before = [(number, signal.signal(number, heed)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Within this, signals but ignored ones (nohup) ask to stop; a second one, or the time, ends the process."""
    asked = StopRequest()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def heed(number: int, frame: object) -> None:
        asked.number = asked.number or number
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGHUP:  # a terminal that has hung up can't be written to any more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in terminals:
                os.dup2(nowhere, terminal)
        if not asked.saves:
            raise KeyboardInterrupt
        asked.event.set()
        timer = threading.Timer(SECONDS, end_unheeded)
        timer.daemon = True
        timer.start()

    def end_unheeded() -> None:
        said = "dqlab: not done in time: ended as it is; the last checkpoint is at most a minute old"
        with suppress(OSError):
            print(said, file=sys.stderr)
        os._exit(128 + asked.number)

    heeded = [each for each in NUMBERS if signal.getsignal(each) not in (None, signal.SIG_IGN)]
    with handled_signals(heed, *heeded):
        yield asked


@contextmanager
def interrupts_as_event() -> Iterator[threading.Event]:
    """Within this, Ctrl-C sets an event; a second one interrupts at once. Only the main thread gets signals."""
    asked, main = threading.Event(), threading.current_thread() is threading.main_thread()

    def heed(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        asked.set()

    with handled_signals(heed, signal.SIGINT) if main else nullcontext():
        yield asked


ROWS_A_THREAD = 1024
"""Measured (docs/performance.md): with batches of 256 two threads are slower than one, from 1024 rows on they pay."""
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Idle threads of OpenMP sleep: spinning ones take the cores from other runs."""


def quiet_threads() -> None:
    """Let idle threads sleep, unless the environment says otherwise; it is read when PyTorch is imported."""
    for name, value in QUIET_THREADS.items():
        os.environ.setdefault(name, value)


def threads_for(rows: int) -> int:
    """Threads for matrix products of that many rows: one for each 1024, one at least, no more than there are cores."""
    return max(1, min(cores(), rows // ROWS_A_THREAD))  # no trial: threads change last bits, and a run must repeat


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Within this, the process may take so many bytes more, and gets a MemoryError beyond; on Linux."""
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft < 0 else min(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
