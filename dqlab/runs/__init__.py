"""One run, from its gin configuration to its results; evaluations, videos, profiles, and the official code's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dqlab import lazy_names

if TYPE_CHECKING:
    from dqlab.runs.evaluate import evaluate_run
    from dqlab.runs.experiment import Experiment
    from dqlab.runs.run import train

__all__ = ["Experiment", "evaluate_run", "train"]
# an experiment needs neither MLflow nor rich
__getattr__ = lazy_names(__name__, {"Experiment": "experiment", "evaluate_run": "evaluate", "train": "run"})
