"""dqlab: reproduce, ablate and extend Diffusion-QL."""

from __future__ import annotations

__version__ = "0.1.0"
