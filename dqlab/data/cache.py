"""Where D4RL keeps its files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$D4RL_DATASET_DIR, or ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")
