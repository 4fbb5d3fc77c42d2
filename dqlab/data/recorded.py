"""SHA-256 of downloaded files, kept beside them: D4RL publishes none, so the first download's is the one to hold."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dqlab.errors import DataError
from dqlab.files import write_text


def note_of(path: Path) -> Path:
    """Where a file's digest is kept, as `sha256sum -c` reads it."""
    return path.with_name(path.name + ".sha256")


def recorded_digest(path: Path) -> str:
    """The digest that a file had when it was downloaded, hexadecimal; empty where none is known."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = note_of(path).read_text().split()
        return words[0].lower() if words and len(words[0]) == 64 else ""
    return ""


def remember_download(path: Path, digest: str) -> None:
    """Keep a file's digest.

    Raises:
        DataError: it cannot be written.
    """
    try:
        write_text(note_of(path), f"{digest}  {path.name}\n")
    except OSError as error:
        raise DataError(f"Cannot write {note_of(path)}: {error.strerror or error}.") from error


def forget_download(path: Path) -> None:
    """The file is replaced by one that was not downloaded."""
    with contextlib.suppress(OSError):
        note_of(path).unlink(missing_ok=True)


def digest_fault(path: Path, digest: str) -> str:
    """What is wrong with a file of this digest that is to be the one that was downloaded; empty if it is."""
    known = recorded_digest(path)
    if known in ("", digest):
        return ""
    return (
        f"SHA-256 is {digest}, and was {known} when {path.name} was first downloaded. Where the new one is meant, "
        f"delete {note_of(path)}."
    )
