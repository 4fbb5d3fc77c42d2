"""Frames become a video file as they come; the file appears whole or not at all."""

from __future__ import annotations

import math
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dqlab.errors import ConfigError, RunError
from dqlab.files import atomic_path
from dqlab.machine import attempt_command

Frame = NDArray[np.uint8]
Draw = Callable[[], Frame]
"""Makes a frame (height, width, 3)."""
GIF_FPS = 25
"""Viewers show GIFs of more than 50 pictures a second slowly; from this on, pictures are left out evenly."""


class Encoder(ABC):
    """Writes one file.

    Args:
        path: where.
        fps: frames a second that are given.
        size: width and height of a frame.

    Attributes:
        fps: frames a second that are shown; a GIF leaves some out.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.fps, self.size = path, fps, size

    @staticmethod
    @abstractmethod
    def check() -> None:
        """See that what it needs is installed.

        Raises:
            ConfigError: it is not.
        """

    @classmethod
    def share(cls, fps: float) -> float:
        """Of so many frames a second, the share that is drawn: all of them."""
        return 1.0

    @abstractmethod
    def add(self, draw: Draw) -> None:
        """One more frame, which is drawn if it is wanted."""

    @abstractmethod
    def close(self) -> None:
        """End the file.

        Raises:
            OSError: it could not be written.
        """


class Mp4(Encoder):
    """H.264, by the ffmpeg that imageio-ffmpeg brings."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        super().__init__(path, fps, size)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        shape = [f"{size[0]}x{size[1]}", "-r", f"{fps:g}", "-i", "-"]
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", *shape]
        wanted = ["-an", *_codec(), "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(path)]
        command = [ffmpeg(), "-y", "-loglevel", "error", *given, *wanted]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said)

    @staticmethod
    def check() -> None:
        ffmpeg()

    def add(self, draw: Draw) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(draw()).tobytes())
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        code = _end(self._process)
        if code:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().splitlines()
            raise OSError(said[0] if said else f"ffmpeg ended with {code}")


def _end(process: subprocess.Popen[bytes]) -> int:
    """Its exit code, once it has written all that it was given."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    return process.wait()


def ffmpeg() -> str:
    """The ffmpeg program.

    Raises:
        ConfigError: there is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ConfigError("An .mp4 needs ffmpeg: pip install 'dqlab[video]'. A .gif works without.") from error


SECONDS = 30.0
"""In which ffmpeg says what it can do."""


def _codec() -> list[str]:
    """H.264 at a quality at which nothing is seen of it; ffmpeg's own choice for builds without x264."""
    known = attempt_command([ffmpeg(), "-hide_banner", "-encoders"], timeout=SECONDS).output
    return ["-c:v", "libx264", "-crf", "20"] if "libx264 " in known else []


class Gif(Encoder):
    """An animated GIF that repeats, each picture with 256 colours of its own, by Pillow."""

    @classmethod
    def share(cls, fps: float) -> float:
        """Every so many frames one, evenly."""
        return 1 / max(1, math.ceil(fps / GIF_FPS))

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        super().__init__(path, fps, size)
        self._every = round(1 / self.share(fps))
        self.fps = fps / self._every
        self._milliseconds = 1000.0 / self.fps
        self._given, self._file = 0, path.open("wb")

    @staticmethod
    def check() -> None:
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ConfigError("A .gif needs Pillow: pip install 'dqlab[video]'.") from error

    def add(self, draw: Draw) -> None:
        self._given += 1
        if (self._given - 1) % self._every == 0:
            self._file.write(self._encoded(draw(), first=self._given == 1))

    def _encoded(self, frame: Frame, first: bool) -> bytes:
        from PIL import GifImagePlugin, Image

        picture = Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE)
        about: dict[str, Any] = {"duration": self._milliseconds, "loop": 0}
        header = GifImagePlugin.getheader(picture, info=dict(about))[0] if first else []
        return b"".join([*header, *GifImagePlugin.getdata(picture, **about, include_color_table=True)])

    def close(self) -> None:
        with self._file:
            self._file.write(b";")


ENCODERS: dict[str, type[Encoder]] = {".mp4": Mp4, ".gif": Gif}


@contextmanager
def encoding(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Encoder]:
    """An encoder of the kind that the file's name says.

    Raises:
        RunError: the file could not be written; there is none then.
    """
    try:
        with atomic_path(path) as temporary:
            encoder = ENCODERS[path.suffix.lower()](temporary, fps, size)
            try:
                yield encoder
            finally:
                encoder.close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"The video {path} could not be written: {reason}. Free some space, or choose another place."
        ) from error
