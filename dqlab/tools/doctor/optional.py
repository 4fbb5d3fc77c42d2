"""What not everybody needs: Minari, MLflow, videos, clusters, plugins."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from dqlab.data.formats.minari_store import local_store
from dqlab.errors import masked
from dqlab.machine import run_isolated
from dqlab.tools.doctor.environments import PICTURES
from dqlab.tools.doctor.examination import PROGRAM_SECONDS, DoctorFinding, State, find_extra, register_check
from dqlab.tools.doctor.training import RECORDS, find_space
from dqlab.tracking.mlflow.client import store_path, tracking_uri

REACHED_WITHIN = 3.0


@register_check(RECORDS, "Minari")
def minari() -> DoctorFinding:
    """Installed, and what its store holds."""
    found, folder = find_extra("minari", "Minari's data sets"), local_store()
    if found.state is not State.OK:
        return found
    try:
        sets = len(list(folder.rglob("data"))) if folder.exists() else 0
    except OSError as error:
        text = f"{folder} cannot be read ({error.strerror})"
        return DoctorFinding(State.BROKEN, text, "set MINARI_DATASETS_PATH")
    return replace(found, text=f"{found.text.partition(':')[0]}; {sets} data sets in {folder}")


SEARCH = """
import sys
from dqlab.tracking.mlflow.client import mlflow_client
mlflow_client(sys.argv[1]).search_experiments(max_results=1)
"""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@register_check(RECORDS, "MLflow")
def mlflow() -> DoctorFinding:
    """The store that runs are recorded in: asked for its experiments, or locked for writing."""
    uri = tracking_uri(Path("runs") / "run")
    local = store_path(uri)
    trouble = _server_trouble(uri) if local is None else _sqlite_trouble(local)
    if trouble:
        fix = "training goes on without it, and `dqlab sync RUN` sends later; set MLFLOW_TRACKING_URI"
        return DoctorFinding(State.BROKEN, f"{masked(uri)}: {trouble}", fix)
    said = "answers" if local is None else "can be written" if local.exists() else "will be made"
    return DoctorFinding(State.OK, f"{masked(uri)} {said}")


def _server_trouble(uri: str) -> str:
    """Why a server does not answer, without a password; empty where it does."""
    try:
        parts = urlsplit(uri)
        port, password = parts.port, parts.password
    except ValueError as error:
        return str(error)
    if port and parts.scheme not in ("http", "https"):  # what asks a database goes on for long; http may have a proxy
        try:
            socket.create_connection((parts.hostname or "", port), REACHED_WITHIN).close()
        except OSError as error:
            return error.strerror or str(error)
    said = run_isolated(SEARCH, uri, timeout=PROGRAM_SECONDS, env=IMPATIENT).trouble
    reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", said)
    return reason[1] if reason else masked(said.replace(password or "\0", "***"))


def _sqlite_trouble(path: Path) -> str:
    """Why a store cannot be written; empty where it can."""
    if not path.exists():
        found = find_space(path.parent, "")
        return found.text if found.state is State.BROKEN else ""
    try:
        with sqlite3.connect(path, timeout=2.0) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
        store.close()
    except sqlite3.Error as error:
        return str(error)
    return ""


ENCODER = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_version())"


@register_check(PICTURES, "ffmpeg")
def encoder() -> DoctorFinding:
    """Encodes .mp4 files."""
    found = find_extra("video", ".mp4 videos; without it they are GIFs")
    if found.state is State.OK and not (tried := run_isolated(ENCODER, timeout=PROGRAM_SECONDS)).fine:
        return DoctorFinding(State.BROKEN, tried.trouble, "pip install --force-reinstall imageio-ffmpeg")
    return found


@register_check("More", "Ray")
def ray() -> DoctorFinding:
    """Installed, and whether the cluster of $RAY_ADDRESS takes connections."""
    found, address = find_extra("ray", "grids on a cluster"), os.environ.get("RAY_ADDRESS", "")
    if found.state is not State.OK or not address:
        return found
    text = f"{found.text}; $RAY_ADDRESS={address}"
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "://" in address:
        return replace(found, text=f"{text} is no HOST:PORT and not tried")
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN).close()
    except OSError as error:
        fix = "ray start --head there, or unset RAY_ADDRESS"
        return DoctorFinding(State.BROKEN, f"{text} cannot be reached ({error.strerror or error})", fix)
    return replace(found, text=f"{text} takes connections")


@register_check("More", "SLURM")
def slurm() -> DoctorFinding:
    """Installed, and whether this is a machine from which jobs can be sent."""
    found = find_extra("slurm", "grids on SLURM")
    missing = found.state is State.OK and not shutil.which("sbatch")
    return replace(found, text=f"{found.text}; there is no sbatch here") if missing else found


@register_check("More", "collecting")
def collect() -> DoctorFinding:
    """Installed."""
    return find_extra("collect", "dqlab collect")


LOAD = """
import contextlib, io
from dqlab.config.plugins import load_plugins
said = io.StringIO()
with contextlib.redirect_stderr(said):
    load_plugins()
print(said.getvalue())
"""


@register_check("More", "plugins")
def plugins() -> DoctorFinding:
    """Installed ones, loaded."""
    names = ", ".join(sorted(point.name for point in entry_points(group="dqlab.plugins")))
    if not names:
        return DoctorFinding(State.OK, "none installed")
    tried = run_isolated(LOAD, timeout=PROGRAM_SECONDS)
    warnings = [line.partition("warning: ")[2] for line in tried.output.splitlines() if "dqlab: warning: " in line]
    if tried.fine and not warnings:
        return DoctorFinding(State.OK, names)
    fix = "repair or pip uninstall it; DQLAB_DEBUG=1 dqlab list shows the traceback"
    state = State.WARNING if tried.fine else State.BROKEN
    return DoctorFinding(state, f"{names}: {'; '.join(warnings) or tried.trouble}", fix)
