"""Finished runs in folders: of a run, of a pack, of a whole grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab import configuration
from dqlab.comparison.replicas import Found, Replica, comparable
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
    waiting = facts.get("cells", 0) - len(found.replicas) - found.failed
    return Found(found.replicas, found.failed, max(waiting, found.unfinished))


def _read_run(path: Path, facts: Mapping[str, Any]) -> Found:
    """The replicas of a run or of a pack."""
    replicas = facts.get("replicas") or {f"seed-{seed}": {"seed": seed} for seed in facts["seeds"]}
    done = {name: replica for name, replica in replicas.items() if (path / name / "summary.json").exists()}
    failed = sum((path / name / "failure.json").exists() for name in replicas if name not in done)
    found = tuple(_replica(path, name, replica, facts) for name, replica in done.items())
    return Found(found, failed, len(replicas) - len(done) - failed)


def _replica(path: Path, name: str, replica: Mapping[str, Any], facts: Mapping[str, Any]) -> Replica:
    folder = path / name
    config = next(file for file in (folder / "config.gin", path / "config.gin") if file.exists() or file.parent == path)
    summary = json.loads((folder / "summary.json").read_text())
    return Replica(
        name=str(folder.resolve()),
        label=str(replica.get("cell") or facts.get("cell") or ""),
        task=summary["task"],
        seed=int(replica["seed"]),
        caveat=summary["caveat"],
        physics=summary["physics"],
        digest=facts["data"]["digest"],
        config=comparable(configuration.flat(config.read_text())),
        made_with={**facts["versions"], "commit": facts["git_commit"], "device": facts["device_name"]},
        scores={rule: row["score_mean"] for rule, row in summary["selection"].items()},
    )
