"""`dqlab sync`, `ui`, `bench`, `fidelity`: what is recorded and measured."""

from __future__ import annotations

from typing import Any

from dqlab.cli.bench import add_bench
from dqlab.cli.fidelity import add_fidelity
from dqlab.cli.sync import add_sync
from dqlab.cli.ui import add_ui


def add(commands: Any) -> None:
    """Add these commands."""
    add_sync(commands)
    add_ui(commands)
    add_bench(commands)
    add_fidelity(commands)
