"""Making MLflow runs so that a killed process leaves none behind: each has a key by which it is found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dqlab.errors import RunError
from dqlab.files import own
from dqlab.tracking.journal_reader import chunks
from dqlab.tracking.memory import Memory

OWNER, KEY, PARENT = "dqlab.owner", "dqlab.key", "mlflow.parentRunId"
LONGEST_TAG = 4000
PAGE = 1000


@dataclass(frozen=True)
class New:
    """A run to be made: its name, its parent's id, its tags, and when it began, in seconds."""

    name: str
    parent: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    began: float = 0.0


class Runs:
    """Makes the runs of one owner, such as a grid, each of them once.

    Before the first run of a sending is made, the memory notes `unsure`; once all are remembered, `sure` takes that
    back. Whoever finds the note looks for runs that were made and not remembered, because a process was killed or an
    answer of the server was lost.

    Args:
        client: MLflow's.
        experiment: gives the experiment's id.
        memory: with `owner`, a name that nobody else has, and `unsure`.
    """

    def __init__(self, client: Any, experiment: Callable[[], str], memory: Memory) -> None:
        self._client, self._find_experiment, self._memory = client, experiment, memory
        self._was_unsure = bool(memory.state["unsure"])

    @cached_property
    def _experiment(self) -> str:
        return self._find_experiment()

    @cached_property
    def _left_behind(self) -> dict[str, str]:
        """Runs of this owner that MLflow has, by key."""
        if not self._was_unsure:
            return {}
        wanted = f"tags.`{OWNER}` = '{self._memory.state['owner']}'"
        found = all_runs(self._client, [self._experiment], wanted)
        return {run.data.tags[KEY]: str(run.info.run_id) for run in found}

    def make(self, wanted: Mapping[str, New]) -> dict[str, str]:
        """Ids of new runs, by key."""
        if wanted and not self._memory.state["unsure"]:
            self._memory.state["unsure"] = True
            self._memory.save()
        return {key: self._left_behind.get(key) or self._make(key, new) for key, new in wanted.items()}

    def _make(self, key: str, new: New) -> str:
        own = {OWNER: self._memory.state["owner"], KEY: key, **({PARENT: new.parent} if new.parent else {})}
        tags = {name: str(value)[:LONGEST_TAG] for name, value in {**new.tags, **own}.items()}
        start = int(new.began * 1000) or None
        return str(self._client.create_run(self._experiment, start, tags, new.name).info.run_id)

    def sure(self) -> None:
        """Every run that was made is remembered."""
        if self._memory.state["unsure"]:
            self._memory.state["unsure"] = False
            self._memory.save()


def all_runs(client: Any, experiments: list[str], wanted: str = "") -> list[Any]:
    """Runs of experiments that a filter lets pass, page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, wanted, max_results=PAGE, page_token=token)
        found, token = [*found, *page], page.token
        if not token:
            return found


def log_file(client: Any, run: str, path: Path, root: Path, folder: str | None = None) -> None:
    """A file of the folder that is sent, as an artifact.

    Raises:
        RunError: it is not there, or leads to another place.
    """
    if not path.is_file():
        raise RunError(f"{path} is not there, or is no file.")
    client.log_artifact(run, str(own(path, root)), folder)


def log(client: Any, run: str, metrics: list[Any], params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
    """All of it in as few requests as MLflow's limits allow."""
    from mlflow.entities import Param, RunTag

    first = {
        "params": [Param(name, str(value)[:480]) for name, value in params.items()],
        "tags": [RunTag(name, str(value)[:LONGEST_TAG]) for name, value in tags.items()],
    }
    for part in list(chunks(metrics, 900)) or [[]]:
        if part or any(first.values()):
            client.log_batch(run, metrics=part, **first)
        first = {"params": [], "tags": []}
