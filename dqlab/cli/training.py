"""`dqlab train`, `eval`, `collect`, `figure`: runs."""

from __future__ import annotations

from typing import Any

from dqlab.cli.collect import add_collect
from dqlab.cli.eval import add_eval
from dqlab.cli.figure import add_figure
from dqlab.cli.train import add_train


def add(commands: Any) -> None:
    """Add these commands."""
    add_train(commands)
    add_eval(commands)
    add_collect(commands)
    add_figure(commands)
