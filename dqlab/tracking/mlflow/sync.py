"""Send a folder to MLflow: it lists what MLflow has of the folder, by tag, and sends the rest; nothing is made twice.

Training writes files only. While it trains, a process of its own, the mirror, reads and sends them; so a dead server
never stops a run, and `dqlab sync RUN` sends later what was missed. A grid has one mirror.

FOLDER/mlflow.json (of a pack, too) remembers what has been sent to one store, so that nothing is asked where nothing
is new. A process may be killed at any moment, and a server's answer be lost: a run that was made and not remembered is
found again by its tags, and MLflow keeps one of two metrics that are sent twice, as each has the record's own time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any

from dqlab.errors import RunError, masked, one_line
from dqlab.files import json_digest, open_lock, path_within, write_text
from dqlab.tracking.folders import GRID, LeftOutError, SkippedRecords, grid_of, is_grid, read_facts
from dqlab.tracking.mlflow import client
from dqlab.tracking.mlflow.client import KEY, MEMORY, OWNER, PARENT, mlflow_client, tracking_uri
from dqlab.tracking.mlflow.tree import ENDED_BY, TAG, TrackedRun, grid_tree, pack_tree, run_tree
from dqlab.tracking.records import GridRecord, MemoryRecord, SentRecord, read_journal, read_record
from dqlab.tracking.run_folder import RunFolder

POLL_SECONDS = 5.0
LONGEST_PAUSE, PATIENCE = 60.0, 20.0
PLACE = re.compile(r"0x[0-9a-f]+")  # addresses of objects in memory, which differ each time that the same is said


class Mirror:
    """A mirror process beside one that trains a run or a grid; the pipe to it closes with that, however it ends."""

    def __init__(self, run: Path, experiment: str) -> None:
        command = [sys.executable, "-m", "dqlab.tracking.mlflow.sync", str(run.resolve()), experiment]
        with (run / "mlflow.log").open("a") as log:
            self._process = Popen(
                command, stdin=PIPE, stdout=log, stderr=log, start_new_session=True, env=client.mirror_environment()
            )

    def close(self, patience: float) -> bool:
        """Let the mirror send the rest; returns whether all was sent within `patience` seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(patience) == 0
        except TimeoutExpired:
            self._process.terminate()
            return False


def keep_sending(run: Path, experiment: str) -> bool:
    """Send until standard input ends, and then, for PATIENCE seconds, until all is sent; returns whether it is."""
    pause, deadline, said = POLL_SECONDS, float("inf"), ""
    while True:
        over = bool(select.select([sys.stdin], [], [], 0 if deadline < float("inf") else pause)[0])
        deadline = min(deadline, time.monotonic() + PATIENCE) if over else deadline
        problem, retry = "", False
        try:
            send_folder(run, tracking_uri(run), experiment, over)
        except LeftOutError as error:  # to try again at once would not help
            problem = f"left out: {error}"
        except Exception as error:  # whatever the server or its client does, training's records are safe
            problem, retry = f"not sent: {type(error).__name__}: {one_line(error)}", True
        if problem and PLACE.sub("", problem) != said:
            print(time.strftime("%H:%M:%S"), problem, flush=True)
        if over and (not retry or time.monotonic() > deadline):
            return not problem
        said, pause = PLACE.sub("", problem), min(2 * pause, LONGEST_PAUSE) if retry else POLL_SECONDS
        time.sleep(1.0 if over else 0.0)


def warn_unsent(path: Path) -> None:
    """Say on standard error that MLflow lacks some of a run or of a grid, why, and what to do; quiet or not."""
    log = path / "mlflow.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    why = f" ({said[-1][:300]})" if said else ""
    print(f"dqlab: warning: MLflow does not have all of it yet{why}. Later: dqlab sync {path}", file=sys.stderr)


def sync_to_mlflow(path: Path, to: str = "") -> tuple[Path, str]:
    """Send the rest of a run or a grid, for which a pack stands; a RunError where that cannot be.

    `to` is a tracking URI, by default `tracking_uri`'s. Returns what was sent, and the URI without a password.
    """
    path = grid_of(path) or path
    facts = read_facts(path)
    with client.client_environment(to):
        uri = tracking_uri(path)
        try:
            send_folder(path, uri, facts.get("mlflow_experiment") or path.resolve().name, not RunFolder(path).in_use())
        except LeftOutError as error:
            raise RunError(f"{path} was sent to {masked(uri)}, but for this: {error}") from error
        except Exception as error:
            raise RunError(f"{path} could not be sent to {masked(uri)}: {one_line(error)}") from error
    return path, masked(uri)


def is_tracked(run: Path) -> bool:
    """Whether a run, or the grid of a pack, was to be recorded in MLflow."""
    folder = grid_of(run) or run
    return any((folder / name).exists() for name in (MEMORY, "mlflow.log"))


def send_folder(folder: Path, uri: str, experiment: str, over: bool = False) -> None:
    """Send whatever of a run's or a grid's folder has not been sent, one process at a time; may be called at any time.

    With `over` nobody writes into the folder any more: what has not ended is shown as killed, until it goes on. Raises
    LeftOutError: something is damaged, or a link, all else was sent; or what MLflow's client raises.
    """
    with open_lock(folder / "mlflow.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = MlflowWriter(folder, uri, experiment, over)
        if is_grid(folder):
            writer.send_grid()
        else:
            writer.send_tree(Memory(folder / MEMORY, uri), run_tree(folder, writer.unended))
        writer.skipped.tell()


class Memory:
    """What one store has of a run, a grid, or a pack with its grid's run and owner; what another had is forgotten."""

    def __init__(self, path: Path, uri: str, grid: tuple[str, str] = ("", "")) -> None:
        self.path, self._place, self._saved = path, {"uri": masked(uri), "grid": grid[0]}, ""
        known: dict[str, Any] = {**read_record(path, MemoryRecord)} if path.exists() else {}
        same = masked(known.get("uri", "")) == masked(uri) and known.get("grid", grid[0]) == grid[0]
        self.owner = grid[1] or known.get("owner") or uuid.uuid4().hex  # nobody else has it: a tag of MLflow's runs
        # tells a pack from those of its name before it; earlier versions had none
        self.attempt: str = known.get("attempt", "") if known else uuid.uuid4().hex[:8]
        self.began = 0.0  # when a grid did, in seconds
        self.runs: dict[str, SentRecord] = known.get("runs", {}) if same else {}  # by key, the top one first
        self.settled: list[str] = known.get("settled", []) if same else []  # a grid's packs that need no further look

    def save(self) -> None:
        """Write the file, if there is anything new."""
        kept = {name: getattr(self, name) for name in ("owner", "attempt", "settled", "runs")}
        text = json.dumps({**self._place, **kept}, indent=1)
        if text != self._saved:
            write_text(self.path, text)
            self._saved = text


def _unsent(run: str, status: str = "RUNNING", tags: str = "") -> SentRecord:
    return {"run": run, "status": status, "records": 0, "bytes": None, "tags": tags, "files": {}}


class MlflowWriter:
    """Writes what folders hold into one MLflow store; `skipped` is what could not be sent: damaged, or a link."""

    def __init__(self, folder: Path, uri: str, experiment: str, over: bool) -> None:
        self._folder, self._uri, self._name, self._over = folder, uri, experiment, over
        self._client, self.skipped = mlflow_client(uri), SkippedRecords()
        self.unended = "KILLED" if over else "RUNNING"  # MLflow's status of what has not ended

    @cached_property
    def _experiment(self) -> str:
        return client.experiment_id(self._client, self._name, self._folder, self._uri)

    def send_grid(self) -> None:
        """A grid's run, its packs with their cells, and cells that another grid has trained."""
        grid, memory = self._folder, Memory(self._folder / MEMORY, self._uri)
        facts = read_record(grid / GRID, GridRecord)
        memory.began = min(path.lstat().st_mtime for path in grid.iterdir())
        top = grid_tree(grid, facts, self.unended, {} if self._over else memory.runs, self.skipped)
        packs = {name: grid / "packs" / name for name in facts["packs"]}  # `packs` may be a link
        # one that was set aside and begun afresh has the same id, and remembers nothing of having been sent
        memory.settled = [name for name in memory.settled if name in packs and (packs[name] / MEMORY).exists()]
        done = set() if self._over else set(memory.settled)  # those are looked at once more at the end
        begun = [pack for name, pack in packs.items() if name not in done and (pack / "run.json").exists()]
        self.send_tree(memory, top, packs=begun)

    def send_tree(self, memory: Memory, top: TrackedRun, parent: str = "", packs: Iterable[Path] = ()) -> None:
        """A run, those below it, and a grid's packs."""
        self._create(memory, top, parent)
        try:
            for child in top.children:
                with self.skipped.damaged():
                    self._send(memory, child)
                    continue
                if self._over:  # nobody trains it any more, and nothing that can be read says how it ended
                    with self._unless_deleted(memory, child):
                        self._show(memory.runs[child.key], replace(child, status="KILLED"))
            for pack in packs:
                with self.skipped.damaged():
                    self._send_pack(memory, memory.runs[top.key]["run"], path_within(pack, pack.parent))
            found = {memory.runs[child.key]["status"] for child in top.children}
            of_children = next((each for each in ("RUNNING", "KILLED", "FAILED") if each in found), "FINISHED")
            with self.skipped.damaged():
                self._send(memory, replace(top, status=top.status or of_children))
        finally:
            memory.save()

    def _send_pack(self, grid: Memory, parent: str, path: Path) -> None:
        memory = Memory(path / MEMORY, self._uri, (parent, grid.owner))
        pack = pack_tree(path, memory.attempt, self.unended)
        self.send_tree(memory, pack, parent)
        done = all(memory.runs[cell.key]["status"] == "FINISHED" for cell in pack.children)
        if done and path.name not in grid.settled:
            grid.settled.append(path.name)
        grid.save()

    def _create(self, memory: Memory, top: TrackedRun, parent: str = "") -> None:
        """Runs that MLflow does not have: nobody remembers them, and none has their tags."""
        if all(node.key in memory.runs for node in (top, *top.children)):
            return
        scope = f" and tags.`{KEY}` LIKE '%{top.key.removeprefix('pack ')}%'" if parent else ""
        known = client.all_runs(self._client, [self._experiment], f"tags.`{OWNER}` = '{memory.owner}'{scope}")
        memory.save()  # with the owner's name, by which they are found if this process does not come to remember them
        found = {run.data.tags[KEY]: _unsent(run.info.run_id, run.info.status) for run in known}
        for node in (top, *top.children):
            if node.key not in memory.runs:
                above = parent if node is top else memory.runs[top.key]["run"]
                tags = {**node.tags, OWNER: memory.owner, KEY: node.key, **({PARENT: above} if above else {})}
                if node.key not in found:
                    cut = {name: str(value)[: client.LONGEST_TAG] for name, value in tags.items()}
                    began = int(1000 * (node.began or memory.began)) or None  # now
                    made = self._client.create_run(self._experiment, began, cut, node.name)
                    found[node.key] = _unsent(made.info.run_id, tags=json_digest(node.tags))
                memory.runs[node.key] = found[node.key]

    def _send(self, memory: Memory, node: TrackedRun) -> None:
        """What is new of one run; a RunError where one of its files is damaged, missing or a link."""
        sent = memory.runs[node.key]
        if sent.get("deleted"):
            sent["status"] = node.status
            return
        with self._unless_deleted(memory, node):
            first, size = sent["bytes"] is None, -1
            if node.journal and node.journal.exists():
                journal, size = path_within(node.journal, node.root), node.journal.stat().st_size
                if size != sent["bytes"]:
                    records = read_journal(journal, sent["records"])
                    for part in (records[start : start + 50] for start in range(0, len(records), 50)):
                        client.log_all(self._client, sent["run"], part, {}, {})
                        sent["records"] += len(part)
            changed = {name: now for name, now in _versions(node).items() if sent["files"].get(name) != now}
            if first or changed or (node.status, json_digest(node.tags)) != (sent["status"], sent["tags"]):
                self._send_results(sent, node, first)
                self._send_files(sent["run"], node, list(changed))
                self._show(sent, node)
            sent["files"].update(changed)
            sent["bytes"], sent["tags"] = size, json_digest(node.tags)

    def _send_results(self, sent: SentRecord, node: TrackedRun, first: bool) -> None:
        """What MLflow does not show yet: a summary that is written again, or was sent before a kill, says the same."""
        (results, tags), shown = node.results(), self._client.get_run(sent["run"]).data
        results = [{**each, "metrics": dict(each["metrics"].items() - shown.metrics.items())} for each in results]
        if json_digest(node.tags) != sent["tags"]:
            tags = {**node.tags, **tags}
            for name in () if first else shown.tags:
                if name.startswith(TAG) and name not in tags:
                    self._client.delete_tag(sent["run"], name)
        client.log_all(self._client, sent["run"], results, node.parameters if first else {}, tags)

    def _send_files(self, run: str, node: TrackedRun, changed: list[str]) -> None:
        """Artifacts that are new, or other than they were."""
        paths = [path_within(node.root / name, node.root) for name in changed]
        place = client.named_place(self._client, run) if paths else ""
        stores = (client.store_path(self._uri) or self._folder, self._folder)  # a stranger's may name the user's files
        beside = tuple(f"{store.resolve().parent}{os.sep}mlartifacts{os.sep}" for store in stores)
        ends = [os.path.realpath(Path(place, node.files[path], path.name)) for path in paths]
        if place and not all(end.startswith(beside) for end in ends):
            raise client.foreign_place(self._client, place)
        for path in paths:
            self._client.log_artifact(run, str(path), node.files[path] or None)

    def _show(self, sent: SentRecord, node: TrackedRun) -> None:
        """Show a run with its status, if it is not shown already; one that goes on has not failed."""
        if sent["status"] == node.status:
            return
        if node.status in ENDED_BY:
            at = int(node.ended_by.stat().st_mtime * 1000) if node.ended_by else None
            self._client.set_terminated(sent["run"], node.status, at)
        else:
            self._client.update_run(sent["run"], status=node.status)
        if sent["status"] == "FAILED":
            tags = self._client.get_run(sent["run"]).data.tags
            for name in ("failure", "failure_step"):
                if name in tags:
                    self._client.delete_tag(sent["run"], name)
        sent["status"] = node.status

    @contextmanager
    def _unless_deleted(self, memory: Memory, node: TrackedRun) -> Iterator[None]:
        """Writes to a run; to one that was deleted in MLflow's pages nothing more is sent, which is told of once."""
        from mlflow.exceptions import MlflowException

        sent = memory.runs[node.key]
        try:
            yield
        except MlflowException:
            stage = self._client.get_run(sent["run"]).info.lifecycle_stage
            if stage != "deleted":
                raise
            if not sent.get("deleted"):
                again = f"to record everything anew, delete {memory.path}"
                print(f"run {sent['run']} was deleted in MLflow: nothing more is sent to it; {again}", flush=True)
            sent["deleted"] = True
            sent["status"] = node.status


def _versions(node: TrackedRun) -> dict[str, str]:
    """What tells each of a run's artifacts from what it was, by its name."""
    found = {}
    for path in node.files:
        if not path.is_file():
            raise RunError(f"{path} is not there, or is no file.")
        stat = path.stat()
        found[str(path.relative_to(node.root))] = f"{stat.st_mtime_ns} {stat.st_size}"
    return found


if __name__ == "__main__":
    sys.exit(0 if keep_sending(Path(sys.argv[1]), sys.argv[2]) else 1)
