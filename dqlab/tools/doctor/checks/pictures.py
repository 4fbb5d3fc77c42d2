"""What videos are made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from dqlab.envs.rendering import GL_BACKENDS, VARIABLE, OpenGL
from dqlab.errors import ConfigError
from dqlab.machine import attempt_command
from dqlab.runs.encoders import ffmpeg
from dqlab.tools.doctor.examination import DoctorFinding, State, register_check
from dqlab.tools.doctor.packages import installed_version

GROUP = "Pictures"
SECONDS = 5.0
NO_DISPLAY = "there is no display"


def _look(way: OpenGL) -> Callable[[], Iterator[DoctorFinding]]:
    def look() -> Iterator[DoctorFinding]:
        tried = way.draws()
        chosen = f", which {VARIABLE} chooses" if os.environ.get(VARIABLE, "").lower() == way.value else ""
        trouble = tried.trouble if any(map(os.environ.get, way.wants)) or not way.wants else NO_DISPLAY
        if tried.fine:
            yield DoctorFinding(way.title, State.OK, f"draws MuJoCo's pictures{chosen}")
        else:
            state = State.BROKEN if chosen else State.MISSING
            yield DoctorFinding(way.title, state, f"cannot draw ({trouble}){chosen}", way.fix)

    return look


for _way in GL_BACKENDS:
    register_check(GROUP, _way.title)(_look(_way))


@register_check(GROUP, "ffmpeg")
def encoder() -> Iterator[DoctorFinding]:
    """Encodes .mp4 files."""
    try:
        program = ffmpeg()
    except ConfigError:
        text = "not installed: videos are GIFs only"
        yield DoctorFinding("ffmpeg", State.MISSING, text, "pip install 'dqlab[video]'")
        return
    tried = attempt_command([program, "-version"], timeout=SECONDS)
    if tried.fine:
        text = (
            f"imageio-ffmpeg {installed_version('imageio-ffmpeg')}, ffmpeg {tried.output.split()[2][:20]}: .mp4 videos"
        )
        yield DoctorFinding("ffmpeg", State.OK, text)
    else:
        yield DoctorFinding("ffmpeg", State.BROKEN, tried.trouble, "pip install --force-reinstall imageio-ffmpeg")
