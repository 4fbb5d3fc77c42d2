"""The data that everything runs on: one set, so that compiled code, which knows its size, is shared."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
from subjects import as_transitions, made_fields

from dqlab.data import Transitions, load_dataset
from dqlab.data.transitions import q_learning_view
from dqlab.envs import tasks

TASK = tasks.get("walker2d-medium-expert-v2")
MADE_ROWS = 100_000


@cache
def load(file: Path | None) -> Transitions:
    """That file, or the set that ships with dqlab; made-up numbers, said to be that, where HDF5 cannot be read."""
    try:
        view = partial(q_learning_view, next_action=True)
        return load_dataset(TASK, sources=(f"file:{file}" if file else "embedded",), view=view)
    except ImportError:
        return as_transitions(made_fields(MADE_ROWS))


def fields(file: Path | None) -> dict[str, np.ndarray]:
    """The same for the baseline."""
    return {name: values.numpy() for name, values in load(file).fields._asdict().items()}
