"""A dataset's way from a file or a server to tensors; looking at it, checking, converting."""

from __future__ import annotations

from dqlab.data.formats.base import data_formats
from dqlab.data.sources import load_dataset
from dqlab.data.transitions import Batch, Transitions

__all__ = ["Batch", "Transitions", "data_formats", "load_dataset"]
