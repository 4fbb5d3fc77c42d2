"""`dqlab doctor`, `score`: what works on this machine; what returns are worth."""

from __future__ import annotations

from typing import Any

from dqlab.cli.doctor import add_doctor
from dqlab.cli.score import add_score


def add(commands: Any) -> None:
    """Add these commands."""
    add_doctor(commands)
    add_score(commands)
