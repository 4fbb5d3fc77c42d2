"""A grid of experiments: its settings and cells, the packs that train them, and the report of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dqlab import lazy_names

if TYPE_CHECKING:
    from dqlab.ablation.driver import ablate
    from dqlab.ablation.engines.base import engines
    from dqlab.ablation.grid import Grid
    from dqlab.ablation.session import GridRequest

__all__ = ["Grid", "GridRequest", "ablate", "engines"]
# a grid needs torch, and engines are imported where registries are filled
__getattr__ = lazy_names(
    __name__, {"Grid": "grid", "GridRequest": "session", "ablate": "driver", "engines": "engines.base"}
)
