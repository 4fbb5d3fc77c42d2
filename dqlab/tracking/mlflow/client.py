"""MLflow's client and its pages: addresses of stores, its limits, experiments and runs."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

from dqlab.errors import ConfigError, RunError, masked, one_line, printable_name
from dqlab.files import remove_leftovers
from dqlab.tracking.folders import grid_of, is_known, read_facts
from dqlab.tracking.records import JournalRecord, MemoryRecord, read_record

ODD = set("?#%")  # characters of paths that mean something else in an address
OWNER, KEY, PARENT = "dqlab.owner", "dqlab.key", "mlflow.parentRunId"
BATCH, PARAMETERS, PAGE = 900, 90, 1000
LONGEST_VALUE, LONGEST_TAG = 480, 4000
"""MLflow takes at most 1000 metrics and 100 parameters a request, 500 characters a parameter and 5000 a tag."""
STORE, MEMORY = "mlflow.db", "mlflow.json"
PORTS, LAST_PORT = 100, 65535
RUNS_PAGE = "/#/experiments?workflowType=machine_learning"
"""MLflow's first page is that of language models' traces, of which there are none."""


def store_uri(path: Path) -> str:
    """The address of a store; in a folder such as `50%?` it names SQLite's driver, or MLflow would not decode it."""
    return f"sqlite+pysqlite:///{quote(str(path))}" if ODD & set(str(path)) else f"sqlite:///{path}"


def store_path(uri: str) -> Path | None:
    """The file that an address names; None where it is no SQLite store's."""
    scheme, slashes, rest = uri.partition(":///")
    return Path(unquote(rest.partition("?")[0])) if slashes and scheme.partition("+")[0] == "sqlite" else None


def all_runs(client: Any, experiments: list[str], wanted: str = "") -> list[Any]:
    """Runs of experiments that a filter lets pass, page by page."""
    found, token = list[Any](), None
    while True:
        page = client.search_runs(experiments, wanted, max_results=PAGE, page_token=token)
        found, token = [*found, *page], page.token
        if not token:
            return found


def log_all(
    client: Any, run: str, records: Iterable[JournalRecord], params: Mapping[str, Any], tags: Mapping[str, Any]
) -> None:
    """All of it in as few requests as MLflow's limits allow; what is sent a second time is stored once."""
    from mlflow.entities import Metric, Param, RunTag

    known = ((record, int(record["time"] * 1000)) for record in records)
    points = [Metric(name, value, at, each["step"]) for each, at in known for name, value in each["metrics"].items()]
    listed = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in params.items()]
    told = [RunTag(name, str(value)[:LONGEST_TAG]) for name, value in tags.items()]
    while points or listed or told:
        client.log_batch(run, metrics=points[:BATCH], params=listed[:PARAMETERS], tags=told)
        points, listed, told = points[BATCH:], listed[PARAMETERS:], []


def mirror_environment() -> dict[str, str]:
    """Environment of a mirror: short HTTP timeouts, its own retries, one thread, no usage reports, no chatter."""
    http = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "OMP_NUM_THREADS": "1"}
    silent = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "GIT_PYTHON_REFRESH": "quiet"}
    return {**http, "MLFLOW_DISABLE_TELEMETRY": "true", **silent, **os.environ}


@contextmanager
def client_environment(uri: str = "") -> Iterator[None]:
    """Within this, MLflow's client finds the mirror's settings in the environment, and a tracking URI that is said."""
    wanted = {**mirror_environment(), **({"MLFLOW_TRACKING_URI": uri} if uri else {})}
    before = {name: os.environ.get(name) for name, value in wanted.items() if os.environ.get(name) != value}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in before:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def beside_uri(run: Path) -> str:
    """The address of the store beside a run."""
    return store_uri(run.resolve().parent / STORE)


def tracking_uri(run: Path) -> str:
    """$MLFLOW_TRACKING_URI, or an SQLite store beside the runs; a RunError where the folder names another address."""
    beside = beside_uri(run)
    if said := os.environ.get("MLFLOW_TRACKING_URI"):
        return said
    # another may be a stranger's, who would get the records and the user's password: the user has to say it, too
    recorded = (read_facts(run).get("mlflow_uri") if is_known(run) else "") or beside
    if recorded != beside:
        advice = "If that is where it belongs, set MLFLOW_TRACKING_URI to it (dqlab sync: or --to)."
        raise RunError(f"{run} was recorded at {masked(recorded)}, which nothing but the folder itself says. {advice}")
    return beside


def mlflow_client(uri: str) -> Any:
    """MLflow's client for a tracking URI, without its chatter."""
    from mlflow.tracking import MlflowClient

    for name, level in {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    if (path := store_path(uri)) and not path.exists():
        # elsewhere, at first: what is cut off while MLflow makes its tables can no longer be used
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent.glob(f".{path.name}.*.tmp"))
        prefix, suffix = f".{path.name}.", f".{os.getpid()}.tmp"
        with TemporaryDirectory(suffix, prefix, path.parent, ignore_cleanup_errors=True) as folder:
            MlflowClient(tracking_uri=store_uri(Path(folder, path.name))).search_experiments(max_results=1)
            with suppress(FileExistsError):  # another process has made one meanwhile
                os.link(Path(folder, path.name), path)
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, name: str, run: Path, uri: str) -> str:
    """The experiment's id, made where there is none; a local store keeps its artifacts beside the run's folder."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = (run.resolve().parent / "mlartifacts").as_uri() if store_path(uri) else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages then show runs, not chats
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    if found.lifecycle_stage == "deleted":
        command = f"`mlflow experiments restore -x {found.experiment_id}`; then: dqlab sync {run}."
        where = "with MLFLOW_TRACKING_URI set to its store"
        raise RunError(f"MLflow's experiment '{name}' is deleted. Restore it, {where}, by {command}")
    return str(found.experiment_id)


def named_place(client: Any, run: str) -> str:
    """The folder of a run's artifacts, where a store in a file says it, which may be a stranger's; or an empty text.

    Raises RunError: it says a server, which would get the user's password.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    if client.tracking_uri == os.environ.get("MLFLOW_TRACKING_URI") or not store_path(client.tracking_uri):
        return ""
    place = str(client.get_run(run).info.artifact_uri)
    if not place.startswith(("/", "file:")):
        raise foreign_place(client, place)
    return str(local_file_uri_to_path(place))


def foreign_place(client: Any, place: str) -> RunError:
    """What is said of a place for artifacts that is not taken from a store in a file."""
    said = f"{masked(client.tracking_uri)} has files in {masked(place)}, which nothing but the store itself says."
    advice = "set MLFLOW_TRACKING_URI to the store's address (dqlab sync: or --to)"
    return RunError(f"{said} If that is where they belong, {advice}.")


def serve_ui(place: str | None, host: str, port: int) -> int:
    """Become `mlflow ui` on the store of a place, until Ctrl-C; of a server, only say where it is, and return 0."""
    uri = store_of(place)
    page = page_of(place, uri)
    if uri.startswith(("http:", "https:")):
        print(f"MLflow: {masked(uri).rstrip('/')}{page}")
        return 0
    if (path := store_path(uri)) and not path.exists():  # MLflow would make an empty one
        raise RunError(f"There is no MLflow store {path}. Nothing has been recorded there yet.")
    port = free_port(host, port)
    print(f"MLflow: http://{host}:{port}{page} shows {masked(uri)} in a few seconds; Ctrl-C ends it", flush=True)
    environment = {**mirror_environment(), "MLFLOW_BACKEND_STORE_URI": uri}  # a command line is seen by everybody
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    return os.execve(sys.executable, command, environment)


def store_of(place: str | None) -> str:
    """The tracking URI of a folder of runs, a run, a grid, a URI, or None: what is here; a RunError without records."""
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
        advice = "Name a folder of runs, or a URI."
        raise RunError(f"Nothing was recorded in MLflow in {folder}: there is no {STORE}. {advice}")
    return store_uri(stores[-1].resolve())


def page_of(place: str | None, uri: str) -> str:
    """The page of a run or a grid, where its folder remembers what a store has of it; else of all training runs."""
    with suppress(RunError, OSError):
        known = read_record(Path(place or "runs", MEMORY), MemoryRecord)
        if known["uri"] == masked(uri) and known.get("runs"):
            return f"/#/runs/{next(iter(known['runs'].values()))['run']}"
    return RUNS_PAGE


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
    name = printable_name(host)
    raise RunError(f"No port of {name} from {first} on can be used: {one_line(refused)}. Choose --host and --port.")
