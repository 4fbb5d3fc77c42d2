"""Addresses of one file, tried in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dqlab.data.download import BrokenError, Progress, download
from dqlab.data.unavailable import UnavailableError
from dqlab.errors import ConfigError

SCHEMES = ("http://", "https://")


def address_of(mirror: str, file: str) -> str:
    """A mirror's address of a file.

    Args:
        mirror: base address with the same folders; or an address with `{file}`, for the path in these folders, or
            `{name}`, for the file's name alone.
        file: path on the original server.

    Raises:
        ConfigError: it is no address, or has other braces.
    """
    if not mirror.lower().startswith(SCHEMES):
        raise ConfigError(f"A mirror's address begins with http:// or https://, not {mirror!r}.")
    pattern = mirror if "{" in mirror else mirror.rstrip("/") + "/{file}"
    address = pattern.replace("{file}", file).replace("{name}", PurePosixPath(file).name)
    if "{" in address or "}" in address:
        raise ConfigError(f"A mirror's address may have {{file}} and {{name}} in braces, nothing else: {mirror!r}.")
    return address


def fetch_from(
    addresses: Sequence[str], path: Path, *, sha256: str | None, magic: bytes, progress: Progress, timeout: float
) -> tuple[str, tuple[str, ...]]:
    """Download a file from the first address that has it; which one that was, and why those before it had nothing.

    Raises:
        UnavailableError: none has it.
        BrokenError: none has it, and at least one transfer broke off or gave a wrong file.
        DataError: the file cannot be written.
    """
    failed: list[UnavailableError | BrokenError] = []
    for address in addresses:
        try:
            download(address, path, sha256=sha256, magic=magic, progress=progress, timeout=timeout)
            return address, tuple(map(str, failed))
        except (UnavailableError, BrokenError) as error:
            failed.append(error)
    kind = BrokenError if any(isinstance(error, BrokenError) for error in failed) else UnavailableError
    raise kind("; ".join(map(str, failed)))
