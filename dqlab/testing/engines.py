"""What engines must do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqlab.ablation.engines import stand_in
from dqlab.ablation.engines.base import FAILED, FINISHED, Engine, Job
from dqlab.errors import ConfigError
from dqlab.registry import Entry


def made_job(folder: Path, **plan: Any) -> Job:
    """A job that trains nothing (`dqlab.ablation.engines.stand_in`), in a new folder; `plan` is its pack.gin."""
    folder.mkdir(parents=True)
    (folder / "pack.gin").write_text("".join(f"{name} = {value!r}\n" for name, value in plan.items()))
    return Job(folder.name, folder, {}, worker=stand_in.__name__)


def check_engine(entry: Entry[Callable[[], Engine]]) -> None:
    """Two jobs, of which one fails: both end, with reasons, events and files; or the engine says what it lacks."""
    told: dict[str, list[str]] = {"sound": [], "failing": []}
    with tempfile.TemporaryDirectory() as place:
        jobs = [made_job(Path(place) / "sound", steps=2), made_job(Path(place) / "failing", fail_at=2)]
        try:
            run = entry.make()().run(jobs, lambda job, event: told[job.id].append(event["event"]))
            ends = {ended.job.id: ended for ended in run}
        except ConfigError as error:
            if "pip install" not in str(error):
                raise
            return
        assert set(ends) == set(told), f"of two jobs, {len(ends)} have ended"
        assert ends["sound"].code == FINISHED, f"a job should have finished: {ends['sound'].reason}"
        assert ends["failing"].code == FAILED, "a failing job has not failed"
        assert ends["failing"].reason, "a failing job's reason is lost"
        assert told["sound"] == ["started", "saved", "saved", "finished"], f"events are {told['sound']}"
        assert told["failing"] == ["started", "saved", "failed"], f"events are {told['failing']}"
        assert (jobs[0].folder / "summary.json").exists(), "a job's files are not in its folder when it has ended"
