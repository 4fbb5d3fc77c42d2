"""What not everybody needs: pictures and videos, clusters, collecting, plugins."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import entry_points

from dqlab.envs.rendering import GL_BACKENDS, VARIABLE, OpenGL
from dqlab.errors import ConfigError
from dqlab.machine import attempt_command, run_isolated
from dqlab.runs.video import ffmpeg
from dqlab.tools.doctor.examination import DoctorFinding, State, register_check
from dqlab.tools.doctor.packages import has_extra, installed_version

PICTURES = "Pictures"
FFMPEG_SECONDS = 5.0
NO_DISPLAY = "there is no display"


def _drawing_check(way: OpenGL) -> Callable[[], Iterator[DoctorFinding]]:
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
    register_check(PICTURES, _way.title)(_drawing_check(_way))


@register_check(PICTURES, "ffmpeg")
def encoder() -> Iterator[DoctorFinding]:
    """Encodes .mp4 files."""
    try:
        program = ffmpeg()
    except ConfigError:
        text = "not installed: videos are GIFs only"
        yield DoctorFinding("ffmpeg", State.MISSING, text, "pip install 'dqlab[video]'")
        return
    tried = attempt_command([program, "-version"], timeout=FFMPEG_SECONDS)
    if tried.fine:
        text = (
            f"imageio-ffmpeg {installed_version('imageio-ffmpeg')}, ffmpeg {tried.output.split()[2][:20]}: .mp4 videos"
        )
        yield DoctorFinding("ffmpeg", State.OK, text)
    else:
        yield DoctorFinding("ffmpeg", State.BROKEN, tried.trouble, "pip install --force-reinstall imageio-ffmpeg")


GROUP = "More"
REACHED_WITHIN = 3.0
"""Seconds."""


@register_check(GROUP, "Ray")
def ray() -> Iterator[DoctorFinding]:
    """Installed, and whether the cluster of $RAY_ADDRESS takes connections."""
    found, address = has_extra("ray", "grids on a cluster", "Ray"), os.environ.get("RAY_ADDRESS", "")
    if found.state is not State.OK or not address:
        yield found
        return
    text = f"{found.text}; $RAY_ADDRESS={address}"
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "://" in address:
        yield replace(found, text=f"{text} is no HOST:PORT and not tried")
        return
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN).close()
        yield replace(found, text=f"{text} takes connections")
    except OSError as error:
        fix = "ray start --head there, or unset RAY_ADDRESS"
        yield DoctorFinding("Ray", State.BROKEN, f"{text} cannot be reached ({error.strerror or error})", fix)


@register_check(GROUP, "SLURM")
def slurm() -> Iterator[DoctorFinding]:
    """Installed, and whether this is a machine from which jobs can be sent."""
    found = has_extra("slurm", "grids on SLURM", "SLURM")
    sbatch = "" if shutil.which("sbatch") else "; there is no sbatch here"
    yield replace(found, text=found.text + sbatch) if found.state is State.OK else found


@register_check(GROUP, "collecting")
def collect() -> Iterator[DoctorFinding]:
    """Installed."""
    yield has_extra("collect", "dqlab collect", "collecting")


PLUGINS_SECONDS = 12.0
PLUGINS = "dqlab.plugins"
LOAD = """
import contextlib, io
from dqlab.config.plugins import load_plugins
said = io.StringIO()
with contextlib.redirect_stderr(said):
    load_plugins()
print(said.getvalue())
"""


@register_check(GROUP, "plugins")
def plugins() -> Iterator[DoctorFinding]:
    """Installed ones, loaded."""
    points = sorted(entry_points(group=PLUGINS), key=lambda point: point.name)
    if not points:
        yield DoctorFinding("plugins", State.OK, "none installed")
        return
    names, tried = ", ".join(point.name for point in points), run_isolated(LOAD, timeout=PLUGINS_SECONDS)
    warnings = [line.partition("warning: ")[2] for line in tried.output.splitlines() if "dqlab: warning: " in line]
    if tried.fine and not warnings:
        yield DoctorFinding("plugins", State.OK, names)
    else:
        fix = "repair or pip uninstall it; DQLAB_DEBUG=1 dqlab list shows the traceback"
        state = State.WARNING if tried.fine else State.BROKEN
        yield DoctorFinding("plugins", state, f"{names}: {'; '.join(warnings) or tried.trouble}", fix)
