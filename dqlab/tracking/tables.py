"""What lies in run folders, as tables: the runs of a folder, and all that a run has logged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from dqlab.errors import RunError
from dqlab.files import expanded
from dqlab.tracking.folders import SkippedRecords
from dqlab.tracking.records import read_journal
from dqlab.tracking.run_folder import RunFolder
from dqlab.tracking.selection_rules import SELECTION_RULES


def list_runs(folder: str | Path = "runs") -> pd.DataFrame:
    """All runs in a folder and below it: a row a replica, with its score by each selection rule once it has finished.

    Runs whose records are damaged are left out, with a warning. Raises RunError: there is no such folder.
    """
    if not expanded(folder).is_dir():
        raise RunError(f"There is no folder '{folder}'.")
    rows, leaving = [], SkippedRecords()
    for path in sorted(expanded(folder).rglob("run.json")):
        with leaving.damaged():
            run = RunFolder(path.parent)
            facts = {"algorithm": "", **run.facts()}
            for replica in run.replicas():
                place = run.replica(replica.name)
                own: dict[str, Any] = {"path": str(place), "cell": replica.cell, "seed": replica.seed}
                if run.failure(replica):
                    own["state"] = "failed"
                elif (place / "summary.json").exists():
                    selection = run.summary(replica)["selection"]
                    own |= {"state": "finished", **{rule: selection[rule]["score_mean"] for rule in SELECTION_RULES}}
                rows.append({**facts, **own})
    for text in leaving.out:
        warnings.warn(f"Left out: {text}", stacklevel=2)
    columns = ["path", "task", "algorithm", "cell", "seed", "state", "caveat", *SELECTION_RULES]
    return pd.DataFrame(rows, columns=columns)


def logged_metrics(run: RunFolder) -> pd.DataFrame:
    """All that a run has logged so far, a row a number: replica, seed, step, metric, value."""
    rows = []
    for replica in run.replicas():
        for record in read_journal(run.replica(replica.name) / "metrics.jsonl"):
            about = {"replica": replica.name, "seed": replica.seed, "step": record["step"]}
            rows += [{**about, "metric": name, "value": value} for name, value in record["metrics"].items()]
    return pd.DataFrame(rows, columns=["replica", "seed", "step", "metric", "value"])
