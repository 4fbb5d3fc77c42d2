"""What tests of OGBench share: sets that its scripted oracles have played, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from dqlab.config import gin_files
from dqlab.tools.collect import oracle
from dqlab.tools.collect.recipe import Collection

ROWS = 40
EPISODES = 3


def collected(folder: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set of a task's in a folder, in OGBench's layout; its file."""
    monkeypatch.setattr(oracle, "EPISODE_ROWS", ROWS)
    kind = "play" if "-play-" in task else "noisy"
    gin_files.load_gin(
        [],
        [
            f"Collection.task='{task}'",
            f"Collection.name='{task}'",
            f"Collection.mixture={{'oracle:{kind}': 1.0}}",
            f"Collection.episodes={EPISODES}",
            "Collection.formats=('ogbench',)",
        ],
    )
    (place,) = Collection().run(folder, log=lambda line: None)
    return Path(place)
