"""What a video is asked to show."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dqlab.errors import ConfigError
from dqlab.filming.encoders import ENCODERS

SMALLEST, LARGEST = 16, 4096


@dataclass(frozen=True)
class Film:
    """A video that is wanted.

    Attributes:
        path: the file, .mp4 or .gif.
        episodes: how many of an evaluation's episodes it shows, one after the other: its first ones.
        size: width and height in pixels; the environment's own if None.
    """

    path: Path
    episodes: int = 1
    size: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: Path, episodes: int | None, size: str | None) -> Film:
        """As the command line says it.

        Raises:
            ConfigError: no such kind of file; a number or a size that means nothing.
        """
        if path.suffix.lower() not in ENCODERS:
            raise ConfigError(f"--render {path}: a file that ends with {' or '.join(ENCODERS)} is wanted.")
        if path.is_dir():
            raise ConfigError(f"--render {path} is a folder. Name a file.")
        if episodes is not None and episodes < 1:
            raise ConfigError(f"--render-episodes {episodes}: at least 1 is wanted.")
        return cls(path, episodes or 1, _size(size) if size else None)

    def check(self, evaluated: int) -> None:
        """See that it can be made and written; a folder that is missing is made.

        Args:
            evaluated: how many episodes there are.

        Raises:
            ConfigError: there are not so many episodes, or the encoder is not installed.
            OSError: the folder cannot be written.
        """
        if self.episodes > evaluated:
            raise ConfigError(f"--render-episodes {self.episodes}: the evaluation has {evaluated} only (--episodes).")
        ENCODERS[self.path.suffix.lower()].check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.path.parent).close()

    def of(self, name: str, alone: bool) -> Film:
        """The video of one of several replicas, which has a file of its own."""
        path = self.path if alone else self.path.with_stem(f"{self.path.stem}-{name}")
        return Film(path, self.episodes, self.size)


def _size(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d+)[xX](\d+)", text)
    size = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if any(not SMALLEST <= pixels <= LARGEST or pixels % 2 for pixels in size):
        raise ConfigError(
            f"--render-size {text}: WIDTHxHEIGHT is wanted, even numbers from {SMALLEST} to {LARGEST}, such as 480x480."
        )
    return size
