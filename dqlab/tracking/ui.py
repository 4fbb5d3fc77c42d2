"""MLflow's pages on the store that the runs here were recorded in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TextIO

from dqlab.errors import RunError
from dqlab.tracking.folders import facts_of, grid_of
from dqlab.tracking.mirror import mirror_environment
from dqlab.tracking.mlflow import tracking_uri
from dqlab.tracking.stores import store_path, store_uri

PORTS = 100
START_SECONDS = 120.0
STORE = "mlflow.db"


def serve(place: str | None, host: str, port: int) -> int:
    """Show a store's runs until Ctrl-C; of a server, only say where it is.

    Args:
        place: a folder of runs, one run's or one grid's, a tracking URI, or None for what is found here.
        host: address to listen on.
        port: the first one to try.

    Returns:
        The exit code: MLflow's own where it ended by itself.

    Raises:
        RunError: there is no store, no free port, or MLflow does not start.
    """
    uri = store_of(place)
    if uri.startswith(("http:", "https:")):
        print(f"MLflow: {uri}")
        return 0
    _check(uri)
    port = free_port(host, port)
    options = ["--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            stdout=log,
            stderr=log,
            env=mirror_environment(),
            start_new_session=True,
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            _wait(process, f"http://{host}:{port}", log)
            print(f"MLflow: http://{host}:{port} shows {uri}; Ctrl-C ends it", flush=True)
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(process)


def store_of(place: str | None) -> str:
    """The tracking URI of a place.

    Raises:
        RunError: nothing was recorded there.
    """
    if place and "://" in place:
        return place
    found = _of_folder(Path(place)) if place else os.environ.get("MLFLOW_TRACKING_URI") or _newest(Path("runs"))
    if not found:
        where = place or "runs"
        raise RunError(
            f"Nothing was recorded in MLflow in {where}: there is no {STORE}. Name a folder of runs, or a URI."
        )
    return found


def _of_folder(folder: Path) -> str | None:
    """The store of a run, or of the runs in a folder."""
    folder = grid_of(folder) or folder
    return tracking_uri(folder) if facts_of(folder) else _newest(folder)


def _newest(folder: Path) -> str | None:
    """The store that was written last."""
    stores = sorted(folder.rglob(STORE), key=lambda path: path.stat().st_mtime)
    return store_uri(stores[-1].resolve()) if stores else None


def _check(uri: str) -> None:
    """MLflow would make an empty store where there is none."""
    path = store_path(uri)
    if path is not None and not path.exists():
        raise RunError(f"There is no MLflow store {path}. Nothing has been recorded there yet.")


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody uses.

    Raises:
        RunError: there is none, or the host is not this machine.
    """
    for port in range(first, min(first + PORTS, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                refused = error
    raise RunError(f"No port of {host} from {first} on can be used: {refused.strerror}. Choose --host and --port.")


def _wait(process: subprocess.Popen[bytes], address: str, log: TextIO) -> None:
    """Until it answers."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1)
            return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    said = log.read().strip().splitlines()
    raise RunError(f"MLflow's server does not start: {said[-1] if said else 'it says nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
