"""What videos are made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from dqlab.children import attempt_command
from dqlab.doctor.finding import Finding, State, check
from dqlab.doctor.packages import version_of
from dqlab.envs.rendering import VARIABLE, WAYS, OpenGL
from dqlab.errors import ConfigError
from dqlab.filming.encoders import ffmpeg

GROUP = "Pictures"
SECONDS = 5.0
NO_DISPLAY = "there is no display"


def _look(way: OpenGL) -> Callable[[], Iterator[Finding]]:
    def look() -> Iterator[Finding]:
        tried = way.draws()
        chosen = f", which {VARIABLE} chooses" if os.environ.get(VARIABLE, "").lower() == way.value else ""
        trouble = tried.trouble if any(map(os.environ.get, way.wants)) or not way.wants else NO_DISPLAY
        if tried.fine:
            yield Finding(way.title, State.OK, f"draws MuJoCo's pictures{chosen}")
        else:
            state = State.BROKEN if chosen else State.MISSING
            yield Finding(way.title, state, f"cannot draw ({trouble}){chosen}", way.fix)

    return look


for _way in WAYS:
    check(GROUP, _way.title)(_look(_way))


@check(GROUP, "ffmpeg")
def encoder() -> Iterator[Finding]:
    """Encodes .mp4 files."""
    try:
        program = ffmpeg()
    except ConfigError:
        text = "not installed: videos are GIFs only"
        yield Finding("ffmpeg", State.MISSING, text, "pip install 'dqlab[video]'")
        return
    tried = attempt_command([program, "-version"], timeout=SECONDS)
    if tried.fine:
        text = f"imageio-ffmpeg {version_of('imageio-ffmpeg')}, ffmpeg {tried.output.split()[2][:20]}: .mp4 videos"
        yield Finding("ffmpeg", State.OK, text)
    else:
        yield Finding("ffmpeg", State.BROKEN, tried.trouble, "pip install --force-reinstall imageio-ffmpeg")
