"""The process of a pack: trains FOLDER/pack.gin in FOLDER until it has finished, or until standard input ends.

    python -m dqlab.ablation.worker FOLDER

Events are JSON objects on standard output, one a line; all else goes to standard error. Started again in the same
folder, it goes on from the last checkpoint, however it ended. Exit codes are those of `engines.base`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from dqlab.ablation.engines.base import DIED, FAILED, FINISHED, SOME_FAILED, STOPPED
from dqlab.config import gin_files
from dqlab.config.plugins import load_plugins
from dqlab.errors import DqlabError, StoppedError, error_place, message_of
from dqlab.machine import NUMBERS, quiet_threads
from dqlab.printing import Console
from dqlab.tracking.run_folder import PACK, RunFolder


def _open_events() -> Callable[[Mapping[str, Any]], None]:
    """What writes events to standard output, as long as anybody reads; all else goes to standard error from now on."""
    sys.stdout.flush()
    file = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def tell(event: Mapping[str, Any]) -> None:
        left = (json.dumps(event) + "\n").encode()
        with suppress(OSError):
            while left:
                left = left[os.write(file, left) :]

    return tell


def main(path: Path) -> int:
    """Train a pack; returns the exit code."""
    quiet_threads()
    tell, stop = _open_events(), _stop_event()
    folder = RunFolder(path)
    try:
        if folder.in_use():
            tell({"event": "waiting", "reason": "an earlier process of this pack ends at its next log"})
        while folder.in_use() and not stop.wait(0.1):
            pass
        if stop.is_set():
            return STOPPED
        if not folder.finished:
            from dqlab.runs import train  # torch, once the folder is free

            tell({"event": "starting"})
            load_plugins()
            loaded = gin_files.load_gin([path / PACK])
            train(loaded, path, resume=True, console=Console(stderr=True), tell=tell, stop=stop)
        if not stop.is_set():
            _inspect(folder)
        tell({"event": "finished"})
        return SOME_FAILED if any(folder.failure(replica) for replica in folder.replicas()) else FINISHED
    except StoppedError:
        return STOPPED
    except DqlabError as error:
        tell({"event": "failed", "reason": message_of(error)})
        return FAILED
    except Exception as error:  # a plugin's part may fail in any way, and so may the machine
        traceback.print_exc()
        tell({"event": "failed", "reason": f"{type(error).__name__}: {message_of(error)} ({error_place(error)})"})
        return DIED


def _inspect(folder: RunFolder) -> None:
    """Look inside the policies of the pack's lowest seed, for the report; where that fails, nothing else does."""
    from dqlab.runs.inspection import inspect_replica

    replicas = [replica for replica in folder.replicas() if not folder.failure(replica)]
    for replica in replicas:
        if replica.seed == min(other.seed for other in replicas):
            try:
                inspect_replica(folder.replica(replica.name))
            except Exception as error:  # a plugin's part may fail in any way
                print(f"dqlab: warning: no look inside of {replica.title}: {message_of(error)}", file=sys.stderr)


def _stop_event() -> Event:
    """Set by the first SIGTERM, SIGHUP or SIGINT (a second one ends the process at once), and when standard input ends,
    as it does when whoever started this process dies."""
    stop = Event()

    def heed(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    def read() -> None:
        with suppress(OSError):
            while os.read(0, 4096):  # not sys.stdin: a thread that reads it would hinder the interpreter's end
                pass
        stop.set()

    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, heed)
    Thread(target=read, daemon=True).start()
    return stop


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
