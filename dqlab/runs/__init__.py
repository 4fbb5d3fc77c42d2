"""One run, from its gin configuration to its results; evaluations, videos, profiles, and the official code's files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqlab.runs.evaluate import evaluate_run
    from dqlab.runs.experiment import Experiment
    from dqlab.runs.run import train

__all__ = ["Experiment", "evaluate_run", "train"]
HOMES = {"Experiment": "experiment", "evaluate_run": "evaluate", "train": "run"}


def __getattr__(name: str) -> Any:
    """A name of the face, imported when it is asked for: an experiment needs neither MLflow nor rich."""
    if name not in HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
