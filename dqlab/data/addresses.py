"""Where D4RL's files can be had: D4RL's server, mirrors, and the first address that has a file in fact."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath

from dqlab.data.download import WEB, BrokenError, Progress, UnavailableError, download
from dqlab.envs.tasks import D4RL, Task
from dqlab.errors import ConfigError


def dataset_addresses(task: Task) -> list[str]:
    """Addresses at which the task's file can be had: D4RL's server, and Hugging Face's where it has the file."""
    return [address for address in (task.url, hugging_face_address(task.file)) if address]


def address_of(mirror: str, file: str) -> str:
    """A mirror's address of a file.

    Args:
        mirror: base address with the same folders; or an address with `{file}`, for the path in these folders, or
            `{name}`, for the file's name alone.
        file: path on the original server.

    Raises:
        ConfigError: it is no address, or has other braces.
    """
    if not mirror.lower().startswith(WEB):
        raise ConfigError(f"A mirror's address begins with http:// or https://, not {mirror!r}.")
    pattern = mirror if "{" in mirror else mirror.rstrip("/") + "/{file}"
    address = pattern.replace("{file}", file).replace("{name}", PurePosixPath(file).name)
    if "{" in address or "}" in address:
        raise ConfigError(f"A mirror's address may have {{file}} and {{name}} in braces, nothing else: {mirror!r}.")
    return address


def hugging_face_address(file: str) -> str:
    """Where the Hugging Face data set `imone/D4RL` has a file of D4RL's, at a revision that does not change.

    Args:
        file: path on D4RL's server.

    Returns:
        An address, below $HF_ENDPOINT where that is set; empty for a file that is not among its 24 of MuJoCo's robots.
    """
    home = D4RL["second_home"]
    pairs = product(home["robots"], home["qualities"])
    if file not in {f"{home['folder']}/{robot}_{quality}-v2.hdf5" for robot, quality in pairs}:
        return ""
    endpoint = (os.environ.get("HF_ENDPOINT") or home["endpoint"]).rstrip("/")
    return address_of(f"{endpoint}{home['path']}", file)


DownloadCheck = Callable[[str, Path], None]
"""Looks at what an address has sent before it is taken; raises a BrokenError where it is not the file."""


def fetch_from(
    addresses: Sequence[str],
    path: Path,
    *,
    sha256: str | None,
    magic: bytes,
    check: DownloadCheck,
    progress: Progress,
    timeout: float,
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
            looked = partial(check, address)
            download(address, path, sha256=sha256, magic=magic, check=looked, progress=progress, timeout=timeout)
            return address, tuple(map(str, failed))
        except (UnavailableError, BrokenError) as error:
            failed.append(error)
    kind = BrokenError if any(isinstance(error, BrokenError) for error in failed) else UnavailableError
    raise kind("; ".join(map(str, failed)))
