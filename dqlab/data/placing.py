"""Whether a dataset's transitions are held in memory or mapped from the disk, and where to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dqlab.data.contents import Contents, View, in_memory, shapes_of
from dqlab.data.formats.base import Columns
from dqlab.data.mapped import mapped
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.machine import available_memory, in_words

USABLE = 0.8
"""Share of the free memory that is counted on."""
SMALL = 32
"""Bytes a row that are in memory at some time whatever is mapped: flags, rewards, their sums."""

WHEN_TO_MAP: dict[str, Callable[[int, int], bool]] = {
    "auto": lambda needed, usable: needed > usable,
    "always": lambda needed, usable: True,
    "never": lambda needed, usable: False,
}
"""Whether transitions are mapped, by the bytes that they take and those that are to be had in memory."""


def check_choice(memory_map: str) -> None:
    """See that there is such a choice.

    Raises:
        ConfigError: there is not; the message names those there are.
    """
    if memory_map not in WHEN_TO_MAP:
        known = nearest_of_few(str(memory_map), WHEN_TO_MAP)
        raise ConfigError(f"load_dataset.memory_map cannot be {memory_map!r}. {known}")


def place(columns: Columns, view: View, memory_map: str, folder: Path) -> Contents:
    """The transitions, in memory or mapped from a folder.

    Args:
        columns: the dataset.
        view: of it.
        memory_map: when to map.
        folder: where it is mapped from; written where it is not there yet.

    Raises:
        DataError: the dataset is damaged, has no transition, or there is no room for it.
    """
    usable = int(USABLE * available_memory())
    needed = _large_bytes(columns) + SMALL * len(columns)
    maps = WHEN_TO_MAP[memory_map](needed, usable)
    held = SMALL * len(columns) if maps else needed
    if held > usable:
        advice = (
            "Use a smaller dataset." if maps else "Set load_dataset.memory_map='auto', which maps it from the disk."
        )
        raise DataError(
            f"{columns.where}: {len(columns):,} rows take {in_words(held)} of memory, {in_words(usable)} are free. "
            + advice
        )
    return mapped(columns, view, folder) if maps else in_memory(columns, view)


def _large_bytes(columns: Columns) -> int:
    """Bytes of the large fields, if every row becomes a transition."""
    widths = (shape[1:] or (1,) for shape in shapes_of(columns, len(columns)).values())
    return 4 * len(columns) * sum(width for (width,) in widths)
