"""A grid of experiments: its settings and cells, the packs that train them, and the report of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dqlab import lazy_names

if TYPE_CHECKING:
    from dqlab.ablation.driver import GridRequest, ablate
    from dqlab.ablation.engines.base import engines
    from dqlab.ablation.grid import Grid

__all__ = ["Grid", "GridRequest", "ablate", "engines"]
# a grid needs torch, and engines are imported where registries are filled
__getattr__ = lazy_names(
    __name__, {"Grid": "grid", "GridRequest": "driver", "ablate": "driver", "engines": "engines.base"}
)
