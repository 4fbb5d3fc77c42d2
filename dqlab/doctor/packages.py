"""Which packages are installed, held against what dqlab's own metadata asks for."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from dqlab.doctor.finding import Finding, State


@cache
def wanted(extra: str = "") -> tuple[Any, ...]:
    """The requirements of dqlab, or those that an extra adds, as `packaging` reads them.

    Raises:
        PackageNotFoundError: dqlab runs from a folder and is not installed.
    """
    from packaging.requirements import Requirement

    each = [Requirement(text) for text in metadata.requires("dqlab") or []]
    if not extra:
        return tuple(item for item in each if item.marker is None or item.marker.evaluate({"extra": ""}))
    return tuple(item for item in each if item.marker and _adds(item.marker, extra))


def _adds(marker: Any, extra: str) -> bool:
    """Whether an extra adds what has this marker."""
    return bool(marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}))


def version_of(name: str) -> str:
    """An installed version; empty for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def unfit(requirements: tuple[Any, ...]) -> list[str]:
    """What is missing or of another version than is asked for, in words."""
    found = [(item, version_of(item.name)) for item in requirements]
    lacking = [f"{item.name} is not installed" for item, version in found if not version]
    outside = [
        f"{item.name} {version} (wanted {item.specifier})"
        for item, version in found
        if version and not item.specifier.contains(version, prereleases=True)
    ]
    return lacking + outside


def extra(name: str, purpose: str, shown: str) -> Finding:
    """Whether what an extra installs is there.

    Args:
        name: of the extra.
        purpose: what it is good for.
        shown: name of its line.
    """
    requirements = wanted(name)
    if not requirements:
        return Finding(shown, State.MISSING, f"not for this Python; {purpose}")
    trouble, fix = unfit(requirements), f"pip install 'dqlab[{name}]'"
    if trouble:
        installed = all(version_of(item.name) for item in requirements)
        return Finding(shown, State.WARNING if installed else State.MISSING, f"{', '.join(trouble)}; {purpose}", fix)
    versions = ", ".join(f"{item.name} {version_of(item.name)}" for item in requirements)
    return Finding(shown, State.OK, f"{versions}: {purpose}")
