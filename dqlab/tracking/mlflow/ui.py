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

from dqlab.errors import ConfigError, RunError, masked, one_line, printable, printable_name
from dqlab.tracking.folders import grid_of, is_known
from dqlab.tracking.mlflow.client import mirror_environment, tracking_uri
from dqlab.tracking.stores import store_path, store_uri

PORTS = 100
LAST_PORT = 65535
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
WHILE_READ = """
import os, signal, subprocess, sys, threading

def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""
"""Runs a command until its own input is at its end: the pipe to it closes with this process, however that ends."""
START_SECONDS = 120.0
STORE = "mlflow.db"


def serve_ui(place: str | None, host: str, port: int) -> int:
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
        print(f"MLflow: {masked(uri)}")
        return 0
    _check(uri)
    port = free_port(host, port)
    server = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WHILE_READ, *server],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**mirror_environment(), "MLFLOW_BACKEND_STORE_URI": uri},  # a command line is seen by everybody
            start_new_session=True,
        )
        for number in SIGNALS:
            signal.signal(number, lambda caught, _: sys.exit(128 + caught))
        try:
            _wait(process, f"http://{host}:{port}", log)
            print(f"MLflow: http://{host}:{port} shows {masked(uri)}; Ctrl-C ends it", flush=True)
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
    return tracking_uri(folder) if is_known(folder) else _newest(folder)


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
        ConfigError: it is no port, or no host.
        RunError: there is none, or the host is not this machine.
    """
    if not 1 <= first <= LAST_PORT:
        raise ConfigError(f"--port must be from 1 to {LAST_PORT}, not {first}.")
    if not host.strip():
        raise ConfigError("--host is empty. 127.0.0.1 is this machine only, 0.0.0.0 every address that it has.")
    refused: OSError | UnicodeError
    for port in range(first, min(first + PORTS, LAST_PORT + 1)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except (OSError, UnicodeError) as error:
                refused = error
    raise RunError(
        f"No port of {printable_name(host)} from {first} on can be used: {one_line(refused)}. Choose --host and --port."
    )


def _wait(process: subprocess.Popen[bytes], address: str, log: TextIO) -> None:
    """Wait until the server answers.

    Raises:
        RunError: it does not start.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1)
            return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    said = log.read().strip().splitlines()
    last = printable(masked(said[-1]), 300) if said else "it says nothing"
    raise RunError(f"MLflow's server does not start: {last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
