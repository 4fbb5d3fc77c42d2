"""Which OpenGL can draw MuJoCo's pictures here, without a display: found out by drawing one."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dqlab.errors import ConfigError
from dqlab.machine import IsolatedOutcome, run_isolated

VARIABLE = "MUJOCO_GL"
"""The environment variable that MuJoCo reads when it is first imported."""
SECONDS = 40.0
"""For one picture."""
DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 64) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
assert picture.shape == (48, 64, 3) and picture[..., 0].max() > picture[..., 1].max(), "the picture is wrong"
"""


@dataclass(frozen=True)
class OpenGL:
    """A way to draw: the value of $MUJOCO_GL, its title, and what to install where it does not work."""

    value: str
    title: str
    fix: str

    def draws(self) -> IsolatedOutcome:
        """Whether it draws: one picture, in a process of its own."""
        return run_isolated(DRAW, timeout=SECONDS, env={VARIABLE: self.value, "PYOPENGL_PLATFORM": None})


GL_BACKENDS = (
    OpenGL("egl", "EGL", "apt-get install libegl1 libgl1-mesa-dri (or an NVIDIA driver)"),
    OpenGL("osmesa", "OSMesa", "apt-get install libosmesa6 (libosmesa6-dev on older systems)"),
    OpenGL("glfw", "GLFW", "only windows need it; apt-get install libgl1"),
)
"""In the order in which they are tried."""


def choose_gl() -> str:
    """Set $MUJOCO_GL to what works: the user's own, or the first of EGL, OSMesa and GLFW that draws a picture.

    Call it before mujoco is imported.

    Returns:
        The value: gymnasium knows those of `GL_BACKENDS` only, for other words of MuJoCo's it stands for GLFW.

    Raises:
        ConfigError: none works, or the user's own does not.
    """
    if chosen := os.environ.get(VARIABLE):
        tried = run_isolated(DRAW, timeout=SECONDS)
        if not tried.fine:
            raise ConfigError(
                f"Nothing can be drawn with {VARIABLE}={chosen} ({tried.trouble}). Unset it: dqlab chooses."
            )
        word = chosen.lower().strip()
        os.environ[VARIABLE] = word if word in {way.value for way in GL_BACKENDS} else "glfw"
        return os.environ[VARIABLE]
    for way in GL_BACKENDS:
        if way.draws().fine:
            os.environ[VARIABLE] = way.value
            return way.value
    raise ConfigError(
        f"Nothing can be drawn here: {GL_BACKENDS[1].fix}, or {GL_BACKENDS[0].fix}. `dqlab doctor` says more."
    )
