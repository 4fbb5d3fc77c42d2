"""Episodes of an evaluation, played again before a camera.

The evaluation itself draws nothing: it is the same with and without a video. Its first episodes are noted, and their
actions played again, one episode after the other, in an environment that draws.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.making import make_env
from dqlab.envs.rendering import choose_gl
from dqlab.errors import ConfigError, message_of
from dqlab.evaluation import Evaluator
from dqlab.filming.encoders import ENCODERS, Encoder, Frame, encoding
from dqlab.filming.recording import Recording, Take
from dqlab.filming.request import Film

MODE = "rgb_array"
FREE, TRACKING = -1, "track"
"""MuJoCo's number of the camera that no model owns, and the name that models give to the one that follows the robot."""
USUAL_FPS = 30.0
"""Of an environment that says nothing of its own."""


class Studio:
    """Makes the videos of an evaluator's evaluations.

    Args:
        evaluator: whose environments are noted from now on.
        film: what is wanted.

    Attributes:
        seconds: that a frame takes here to be drawn.

    Raises:
        ConfigError: the environments cannot be drawn, or the video not be encoded, here.
    """

    def __init__(self, evaluator: Evaluator, film: Film) -> None:
        film.check(evaluator.episodes)
        self._task, self._physics, self._film = evaluator.task, evaluator.physics, film
        environments = evaluator.environments
        if not isinstance(environments, GymnasiumEnvironments):
            environments.close()
            raise ConfigError("--render draws Gymnasium's environments only: Experiment.env_backend='gymnasium'.")
        choose_gl()
        with self._camera() as env:
            self.seconds = _try_out(env, self._task.name) * ENCODERS[film.path.suffix.lower()].share(_fps(env))
        self._recording = evaluator.environments = Recording(environments, film.episodes)

    def takes(self) -> list[Take]:
        """What the latest evaluation noted."""
        return self._recording.takes

    def shoot(self, takes: Sequence[Take], film: Film, step_done: Callable[[], Any] = bool) -> str:
        """Play the episodes again and write the video; returns its size and speed in words.

        Args:
            takes: the episodes, at least one.
            film: the file.
            step_done: called after every step; without a GPU a second of video may take many.
        """
        with self._camera() as env:
            fps = _fps(env)
            _begin(env, takes[0])
            height, width = _picture(env).shape[:2]
            with encoding(film.path, fps, (width, height)) as encoder:
                for take in takes:
                    self._play(env, take, encoder, step_done)
        return f"{width}x{height}, {encoder.fps:g} frames/s"

    @contextmanager
    def _camera(self) -> Iterator[Any]:
        """An environment that draws.

        Raises:
            ConfigError: the task's draws nothing, or not at this size.
        """
        size = dict(zip(("width", "height"), self._film.size or (), strict=False))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a render mode that is not there
                env = make_env(self._task, self._physics, render_mode=MODE, **size)
        except ConfigError as error:
            self._explain(error)
            raise
        try:
            if MODE not in env.metadata.get("render_modes", ()):
                raise ConfigError(f"--render: {self._task.name} has nothing to draw.")
            _follow(env)
            yield env
        finally:
            env.close()

    def _explain(self, error: ConfigError) -> None:
        """An environment that does not know these arguments."""
        if not isinstance(error.__cause__, TypeError):
            return
        if "render_mode" in str(error):
            raise ConfigError(f"--render: {self._task.name} has nothing to draw.") from error
        raise ConfigError(f"{self._task.name} is drawn at its own size only: leave out --render-size.") from error

    def _play(self, env: Any, take: Take, encoder: Encoder, step_done: Callable[[], Any]) -> None:
        """One episode; a warning where its return is not the evaluation's."""
        _begin(env, take)
        encoder.add(partial(_picture, env))
        total = 0.0
        for action in take.actions:
            total += float(env.step(action)[1])
            encoder.add(partial(_picture, env))
            step_done()
        if abs(total - take.total) > 1e-6 * max(1.0, abs(take.total)):
            text = f"the episode in the video has the return {total:.1f}, the evaluation's had {take.total:.1f}"
            print(f"dqlab: warning: {text}: {self._task.env_id} does not repeat an episode", file=sys.stderr)


def _follow(env: Any) -> None:
    """Let the model's own camera go with the robot, where the environment's would stand still and lose it.

    An environment that names a camera, or whose model has none that tracks, draws as it does.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None or renderer.camera_id not in (None, FREE):
        return
    import mujoco

    tracking = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, TRACKING)
    renderer.camera_id = tracking if tracking >= 0 else renderer.camera_id


def _fps(env: Any) -> float:
    return float(env.metadata.get("render_fps") or USUAL_FPS)


def _try_out(env: Any, name: str) -> float:
    """Draw, so that what is missing shows before anything is evaluated; the seconds that a frame takes."""
    import gymnasium

    try:
        env.reset(seed=0)
        _picture(env)  # the first one takes longer: it compiles what draws
        started = time.monotonic()
        _picture(env)
        return time.monotonic() - started
    except (ImportError, gymnasium.error.Error) as error:
        raise ConfigError(f"--render: {name} cannot be drawn here: {message_of(error)}") from error


def _begin(env: Any, take: Take) -> None:
    env.reset(seed=take.seed, options={"group": take.group})


def _picture(env: Any) -> Frame:
    return np.asarray(env.render())
