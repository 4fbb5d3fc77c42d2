"""What is written of a run: its folder, its records, its display; `mlflow` sends it."""

from __future__ import annotations

from dqlab.tracking.run_folder import RunFolder

__all__ = ["RunFolder"]
