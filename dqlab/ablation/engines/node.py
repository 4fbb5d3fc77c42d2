"""One attempt at a pack on a node of a Ray cluster: fetched from the driver's machine, run, sent back as it goes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import DIED, STOPPED, Job
from dqlab.ablation.engines.process import Event, Outcome, attempt, environment
from dqlab.ablation.engines.transfer import Sender
from dqlab.ablation.engines.vault import SupersededError
from dqlab.files import atomic_path

ASK_EVERY = 1.0
"""Seconds between two questions whether to stop."""
KEPT_AT = {"saved", "evaluated", "finished", "failed"}
"""Events at which the folder is sent."""


@dataclass(frozen=True)
class Input:
    """A dataset on its way to a node.

    Attributes:
        name: of the file.
        digest: SHA-256 of its bytes; nodes keep it under that.
        content: a list with a reference to its bytes (in a list, so that Ray fetches them only when told to).
    """

    name: str
    digest: str
    content: Sequence[Any]

    def on_this_node(self) -> Path:
        """The file, fetched if it is not here yet."""
        path = Path(tempfile.gettempdir()) / "dqlab-inputs" / self.digest / self.name
        if not path.exists():
            import ray

            content = ray.get(self.content[0])
            with atomic_path(path) as temporary:
                content.tofile(temporary)
        return path


@dataclass(frozen=True)
class Parcel:
    """What travels to a node.

    Attributes:
        job: the pack.
        number: of the attempt.
        inputs: its datasets.
        as_cache: whether they are found as D4RL's own are, in its cache; otherwise `load_dataset.sources` names them.
        variables: of the driver's environment.
    """

    job: Job
    number: int
    inputs: Sequence[Input]
    as_cache: bool
    variables: Mapping[str, str]

    def settings(self, cache: Path) -> tuple[dict[str, str], list[str]]:
        """Environment variables and gin bindings by which the process finds its datasets; `cache` is to be D4RL's."""
        paths = [item.on_this_node() for item in self.inputs]
        if not paths:
            return {}, []
        if not self.as_cache:
            form = f"{self.job.format}:" if self.job.format else ""
            return {}, [f"load_dataset.sources={tuple(f'file:{form}{path}' for path in paths)!r}"]
        cache.mkdir()
        for path in paths:
            (cache / path.name).symlink_to(path)
        return {"D4RL_DATASET_DIR": str(cache)}, []


class Line:
    """The line to the vault, for one attempt."""

    def __init__(self, vault: Any, job: str, number: int) -> None:
        self._vault, self._job, self._number = vault, job, number
        self._asked, self._asked_at = 0, float("-inf")

    def __call__(self, method: str, *args: Any) -> Any:
        """Call a method of the vault and wait for its answer.

        Raises:
            SupersededError: another attempt has begun.
        """
        import ray

        return ray.get(getattr(self._vault, method).remote(self._job, self._number, *args))

    def asked(self) -> int:
        """How often the job has been asked to stop."""
        if time.monotonic() > self._asked_at + ASK_EVERY:
            self._asked, self._asked_at = self("asked"), time.monotonic()
        return self._asked

    def fetch(self, folder: Path) -> None:
        """Fetch the job's folder as the driver's machine has it."""
        for name in self("names"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self("fetch", name))


def run_parcel(parcel: Parcel, vault: Any) -> Outcome:
    """Run a pack's process in a temporary folder, and keep the driver's copy of it up to date."""
    line = Line(vault, parcel.job.id, parcel.number)
    with tempfile.TemporaryDirectory(prefix="dqlab-pack-", ignore_cleanup_errors=True) as place:
        try:
            return Outcome(STOPPED, "not started") if line.asked() else _run(parcel, line, Path(place))
        except SupersededError as error:
            return Outcome(DIED, str(error))


def _run(parcel: Parcel, line: Line, place: Path) -> Outcome:
    job, folder = parcel.job, place / "pack"
    folder.mkdir()
    line.fetch(folder)
    sender = Sender(folder, partial(line, "stage"), partial(line, "commit"))
    found, bindings = parcel.settings(place / "d4rl")

    def hear(event: Event) -> None:
        if event.get("event") in KEPT_AT:
            sender.send()
        line("hear", event)

    variables = {**environment(job.threads, None if job.gpu_memory else ""), **parcel.variables, **found}
    outcome = attempt(job.command(folder, bindings), folder / job.log.name, variables, hear, line.asked)
    sender.send()
    return outcome
