"""Where D4RL keeps its files."""

from __future__ import annotations

import os
from pathlib import Path

from dqlab.files import expanded


def cache_folder() -> Path:
    """$D4RL_DATASET_DIR, or ~/.d4rl/datasets."""
    return expanded(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets")
