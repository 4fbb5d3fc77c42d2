"""`dqlab ablate`, `compare`: many runs."""

from __future__ import annotations

from typing import Any

from dqlab.cli.ablate import add_ablate
from dqlab.cli.compare import add_compare


def add(commands: Any) -> None:
    """Add these commands."""
    add_ablate(commands)
    add_compare(commands)
