"""Which packages are installed, held against what dqlab's own metadata asks for."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from dqlab.tools.doctor.examination import DoctorFinding, State


@cache
def requirements_of(extra: str = "") -> tuple[Any, ...]:
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


def installed_version(name: str) -> str:
    """An installed version; empty for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def unmet_requirements(requirements: tuple[Any, ...]) -> list[str]:
    """What is missing or of another version than is asked for, in words."""
    found = [(item, installed_version(item.name)) for item in requirements]
    lacking = [f"{item.name} is not installed" for item, version in found if not version]
    outside = [
        f"{item.name} {version} (wanted {item.specifier})"
        for item, version in found
        if version and not item.specifier.contains(version, prereleases=True)
    ]
    return lacking + outside


def has_extra(name: str, purpose: str, shown: str) -> DoctorFinding:
    """Whether what an extra installs is there.

    Args:
        name: of the extra.
        purpose: what it is good for.
        shown: name of its line.
    """
    requirements = requirements_of(name)
    if not requirements:
        return DoctorFinding(shown, State.MISSING, f"not for this Python; {purpose}")
    trouble, fix = unmet_requirements(requirements), f"pip install 'dqlab[{name}]'"
    if trouble:
        installed = all(installed_version(item.name) for item in requirements)
        return DoctorFinding(
            shown, State.WARNING if installed else State.MISSING, f"{', '.join(trouble)}; {purpose}", fix
        )
    versions = ", ".join(f"{item.name} {installed_version(item.name)}" for item in requirements)
    return DoctorFinding(shown, State.OK, f"{versions}: {purpose}")
