"""Which format a dataset has, by the way it is named."""

from __future__ import annotations

from pathlib import Path

from dqlab.data.formats.base import Format, data_formats
from dqlab.errors import ConfigError
from dqlab.files import expanded


def format_of(dataset: str) -> tuple[Format, Path]:
    """The format of a dataset, and what that format opens.

    Args:
        dataset: `FORMAT:REST` with a registered format's name, or a path with a registered format's suffix.

    Raises:
        ConfigError: no format has that name or suffix.
    """
    name, colon, rest = dataset.partition(":")
    if colon and name in data_formats:
        return data_formats.get(name)(), expanded(rest)
    path = expanded(dataset)
    for entry in data_formats:
        if path.suffix.lower() in entry.item.suffixes:
            return entry.item(), path
    raise ConfigError(f"No format of datasets has the suffix of '{dataset}'. Known: {_known()}, or FORMAT:PATH.")


def _known() -> str:
    return ", ".join(
        f"{entry.name} ({', '.join(entry.item.suffixes) or entry.name + ':...'})" for entry in data_formats
    )
