"""Data, disks, and where runs are recorded."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from dqlab.data.formats.minari_store import local_store
from dqlab.data.sources import cache_folder
from dqlab.envs.tasks import D4RL
from dqlab.errors import masked
from dqlab.machine import run_isolated
from dqlab.tools.doctor.examination import DoctorFinding, State, register_check
from dqlab.tools.doctor.packages import has_extra
from dqlab.tracking.mlflow.client import store_path, tracking_uri

GROUP = "Data and records"
GIB = 2**30
LITTLE, TOO_LITTLE = 2.0, 0.2
"""GiB: a run's checkpoints, and a dataset, take some hundred MiB."""
SHOWN = 3
SECONDS = 9.0
REACHED_WITHIN = 3.0
SEARCH = """
import sys
from dqlab.tracking.mlflow.client import mlflow_client
mlflow_client(sys.argv[1]).search_experiments(max_results=1)
"""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@register_check(GROUP, "runs", needed=True)
def runs() -> Iterator[DoctorFinding]:
    """Whether runs can be written here."""
    yield _writable("runs", Path("runs"), "runs are written here by default: cd elsewhere, or use --out")


def _writable(name: str, folder: Path, otherwise: str) -> DoctorFinding:
    """Whether a folder, or what there is above it, can be written, and how much space it has."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        text = f"{there} cannot be written ({error.strerror})"
        return DoctorFinding(name, State.BROKEN, text, otherwise, needed=True)
    free = shutil.disk_usage(there).free / GIB
    state = State.OK if free > LITTLE else State.WARNING if free > TOO_LITTLE else State.BROKEN
    fix = "" if state is State.OK else f"free some space; {otherwise}"
    return DoctorFinding(name, state, f"{folder.absolute()} can be written; {free:.1f} GiB free", fix, needed=True)


@register_check(GROUP, "D4RL cache", needed=True)
def d4rl_cache() -> Iterator[DoctorFinding]:
    """D4RL's files that are there."""
    folder, fix = cache_folder(), "set D4RL_DATASET_DIR to a folder that you can read and write"
    try:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()} if os.path.lexists(folder) else {}
    except OSError as error:
        text = f"{folder} cannot be read ({error.strerror})"
        yield DoctorFinding("D4RL cache", State.BROKEN, text, fix, needed=True)
        return
    place = _writable("D4RL cache", folder, fix)
    if place.state is not State.OK:
        yield place if not sizes else DoctorFinding(place.name, State.WARNING, place.text, place.fix)
        return
    space = place.text.rpartition("; ")[2]
    yield DoctorFinding("D4RL cache", State.OK, f"{folder}: {_files(sizes)}; {space}", needed=True)


def _files(sizes: dict[str, int]) -> str:
    """The tasks whose files there are."""
    names = {task: Path(file).name for task, (_, file, _) in D4RL["tasks"].items()}
    there = {task: sizes[name] for task, name in names.items() if name in sizes}
    if not there:
        return f"none of {len(names)} files yet (dqlab train fetches its own)"
    some = ", ".join(list(there)[:SHOWN]) + (", ..." if len(there) > SHOWN else "")
    return f"{len(there)} of {len(names)} files, {sum(there.values()) / GIB:.1f} GiB ({some})"


@register_check(GROUP, "Minari")
def minari() -> Iterator[DoctorFinding]:
    """Installed, and what its store holds."""
    found = has_extra("minari", "Minari's data sets", "Minari")
    if found.state is not State.OK:
        yield found
        return
    folder = local_store()
    try:
        sets = len(list(folder.rglob("data"))) if folder.exists() else 0
    except OSError as error:
        yield DoctorFinding(
            "Minari", State.BROKEN, f"{folder} cannot be read ({error.strerror})", "set MINARI_DATASETS_PATH"
        )
        return
    yield DoctorFinding("Minari", State.OK, f"{found.text.partition(':')[0]}; {sets} data sets in {folder}")


@register_check(GROUP, "MLflow")
def mlflow() -> Iterator[DoctorFinding]:
    """The store that runs are recorded in: asked for its experiments, or locked for writing."""
    uri = tracking_uri(Path("runs") / "run")
    shown, local = masked(uri), store_path(uri)
    fix = "training goes on without it, and `dqlab sync RUN` sends later; set MLFLOW_TRACKING_URI"
    if local is not None:
        trouble = _sqlite_trouble(local)
        said = "can be written" if local.exists() else "will be made"
    else:
        trouble, said = _server_trouble(uri), "answers"
    if trouble:
        yield DoctorFinding("MLflow", State.BROKEN, f"{shown}: {trouble}", fix)
    else:
        yield DoctorFinding("MLflow", State.OK, f"{shown} {said}")


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
    said = run_isolated(SEARCH, uri, timeout=SECONDS, env=IMPATIENT).trouble
    reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", said)
    return reason[1] if reason else masked(said.replace(password or "\0", "***"))


def _sqlite_trouble(path: Path) -> str:
    """Why a store cannot be written; empty where it can."""
    if not path.exists():
        found = _writable("MLflow", path.parent, "")
        return "" if found.state in (State.OK, State.WARNING) else found.text
    try:
        with sqlite3.connect(path, timeout=2.0) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
        store.close()
    except sqlite3.Error as error:
        return str(error)
    return ""
