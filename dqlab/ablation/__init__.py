"""A grid of experiments: its settings and cells, the packs that train them, and the report of what came of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqlab.ablation.driver import ablate
    from dqlab.ablation.grid import Grid
    from dqlab.ablation.session import GridRequest

__all__ = ["Grid", "GridRequest", "ablate"]
PLACES = {"Grid": "grid", "GridRequest": "session", "ablate": "driver"}
"""Imported when they are asked for: a grid needs torch, and its engines are imported where registries are filled."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
