"""Finished runs in folders: of a run, of a pack, of a whole grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab import configuration
from dqlab.comparison.finished_runs import FinishedRun, Found, comparable
from dqlab.replica import Replica
from dqlab.run_folder import RunFolder
from dqlab.tracking.folders import is_grid, known_facts


def read_folder(path: Path) -> Found:
    """All runs in a folder.

    Raises:
        RunError: it is the folder of neither a run nor a grid.
    """
    facts = known_facts(path)
    if not is_grid(path):
        return _read_run(path, facts)
    packs = [path / "packs" / name for name in facts["packs"]]
    found = Found.all_of(_read_run(pack, known_facts(pack)) for pack in packs if (pack / "run.json").exists())
    waiting = facts.get("cells", 0) - len(found.runs) - found.failed
    return Found(found.runs, found.failed, max(waiting, found.unfinished))


def _read_run(path: Path, facts: Mapping[str, Any]) -> Found:
    """The replicas of a run or of a pack."""
    folder = RunFolder(path)
    replicas = folder.replicas()
    failed = [replica for replica in replicas if folder.failure(replica)]
    done = [
        replica
        for replica in replicas
        if replica not in failed and (folder.replica(replica.name) / "summary.json").exists()
    ]
    found = tuple(_compared(folder, replica, facts) for replica in done)
    return Found(found, len(failed), len(replicas) - len(done) - len(failed))


def _compared(folder: RunFolder, replica: Replica, facts: Mapping[str, Any]) -> FinishedRun:
    own, summary = folder.replica(replica.name) / "config.gin", folder.summary(replica)
    config = (own if own.exists() else folder.config).read_text()
    return FinishedRun(
        name=str(folder.replica(replica.name).resolve()),
        label=replica.cell or str(facts.get("cell") or ""),
        task=summary["task"],
        seed=replica.seed,
        caveat=summary["caveat"],
        physics=summary["physics"],
        digest=facts["data"]["digest"],
        config=comparable(configuration.flat(config)),
        made_with={**facts["versions"], "commit": facts["git_commit"], "device": facts["device_name"]},
        scores={rule: row["score_mean"] for rule, row in summary["selection"].items()},
    )
