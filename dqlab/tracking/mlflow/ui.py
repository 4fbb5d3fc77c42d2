"""MLflow's pages on the store that the runs here were recorded in."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from dqlab.errors import ConfigError, RunError, masked, one_line, printable_name
from dqlab.tracking.folders import grid_of, is_known
from dqlab.tracking.mlflow.client import mirror_environment, store_path, store_uri, tracking_uri

PORTS = 100
LAST_PORT = 65535
STORE = "mlflow.db"
RUNS_PAGE = "/#/experiments?workflowType=machine_learning"
"""MLflow's first page is that of language models' traces, of which there are none."""


def serve_ui(place: str | None, host: str, port: int) -> int:
    """Become `mlflow ui` on a store, until Ctrl-C; of a server, only say where it is, and return 0.

    The place is a folder of runs, one run's or one grid's, a tracking URI, or None: what is found here. Ports are
    tried from `port` on.
    """
    uri = store_of(place)
    if uri.startswith(("http:", "https:")):
        print(f"MLflow: {masked(uri)}")
        return 0
    path = store_path(uri)
    if path is not None and not path.exists():  # MLflow would make an empty one
        raise RunError(f"There is no MLflow store {path}. Nothing has been recorded there yet.")
    port = free_port(host, port)
    print(f"MLflow: http://{host}:{port}{RUNS_PAGE} shows {masked(uri)} in a few seconds; Ctrl-C ends it", flush=True)
    environment = {**mirror_environment(), "MLFLOW_BACKEND_STORE_URI": uri}  # a command line is seen by everybody
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    return os.execve(sys.executable, command, environment)


def store_of(place: str | None) -> str:
    """The tracking URI of a place; a RunError where nothing was recorded."""
    if place and "://" in place:
        return place
    if not place and (said := os.environ.get("MLFLOW_TRACKING_URI")):
        return said
    folder = Path(place or "runs")
    folder = grid_of(folder) or folder
    if is_known(folder):
        return tracking_uri(folder)
    stores = sorted(folder.rglob(STORE), key=lambda path: path.stat().st_mtime)
    if not stores:
        raise RunError(
            f"Nothing was recorded in MLflow in {folder}: there is no {STORE}. Name a folder of runs, or a URI."
        )
    return store_uri(stores[-1].resolve())


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody uses; an error where there is none, or no such host."""
    if not 1 <= first <= LAST_PORT:
        raise ConfigError(f"--port must be from 1 to {LAST_PORT}, not {first}.")
    if not host.strip():
        raise ConfigError("--host is empty. 127.0.0.1 is this machine only, 0.0.0.0 every address that it has.")
    refused: OSError | UnicodeError
    for port in range(first, min(first + PORTS, LAST_PORT + 1)):
        try:
            socket.create_server((host, port)).close()
            return port
        except (OSError, UnicodeError) as error:
            refused = error
    raise RunError(
        f"No port of {printable_name(host)} from {first} on can be used: {one_line(refused)}. Choose --host and --port."
    )
