"""`dqlab compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dqlab.ablation.report_settings import Report
from dqlab.comparison.compare import compare, find
from dqlab.comparison.tables import show
from dqlab.console import Console
from dqlab.tracking.mlflow import tracking_uri

RUNS = Path("runs")


def run(
    runs: Sequence[str],
    experiment: str | None,
    wanted: str,
    uri: str | None,
    rules: Sequence[str] | None,
    as_json: bool,
) -> None:
    """Compare what is named, and print it.

    Raises:
        DqlabError: something that is named is not there, or nothing has finished.
    """
    found = find(runs, experiment, wanted, uri or tracking_uri(RUNS / "any"))
    compared = compare(found, rules or Report().rules)
    if as_json:
        print(json.dumps(compared.as_dict(), indent=1))
    else:
        show(compared, Console())
