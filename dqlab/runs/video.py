"""The videos of one evaluation command: noted while it evaluates, made and sent at its end."""

from __future__ import annotations

import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dqlab.envs import make_env
from dqlab.envs.backend import Array, Environments, GymnasiumEnvironments, StepResult
from dqlab.envs.rendering import choose_gl
from dqlab.errors import ConfigError, RunError, message_of
from dqlab.machine import readable_duration
from dqlab.printing import Console
from dqlab.runs.encoders import ENCODERS, Encoder, Frame, encoding
from dqlab.tracking import RunFolder
from dqlab.tracking.mlflow.sync import is_tracked, keep_video, sync_to_mlflow
from dqlab.training import Evaluator


@dataclass
class RecordedEpisode:
    """An episode: what determines it, and what came of it.

    Attributes:
        seed, group: as in `Environments.reset`.
        actions: one (A,) a step.
        total: undiscounted return.
    """

    seed: int
    group: int
    actions: list[Array] = field(default_factory=list)
    total: float = 0.0


class Recording(Environments):
    """Other environments, whose first episodes are noted.

    Args:
        played: the environments.
        episodes: how many are noted.

    Attributes:
        takes: of the latest reset.
    """

    def __init__(self, played: Environments, episodes: int) -> None:
        self._played, self._episodes = played, episodes
        self.takes: list[RecordedEpisode] = []

    def prepare(self, count: int) -> None:
        self._played.prepare(count)

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        """Begin episodes; those recorded earlier are forgotten."""
        self.takes = [RecordedEpisode(*pair) for pair in zip(seeds, groups, strict=True)][: self._episodes]
        return self._played.reset(seeds, groups)

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        stepped = self._played.step(which, actions)
        for number, action, reward in zip(which, actions, stepped.reward, strict=True):
            if number < len(self.takes):
                self.takes[number].actions.append(action.copy())
                self.takes[number].total += float(reward)
        return stepped

    def close(self) -> None:
        self._played.close()


SMALLEST, LARGEST = 16, 4096


@dataclass(frozen=True)
class VideoRequest:
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
    def read(cls, path: Path, episodes: int | None, size: str | None) -> VideoRequest:
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

    def of(self, name: str, alone: bool) -> VideoRequest:
        """The video of one of several replicas, which has a file of its own."""
        path = self.path if alone else self.path.with_stem(f"{self.path.stem}-{name}")
        return VideoRequest(path, self.episodes, self.size)


def _size(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d+)[xX](\d+)", text)
    size = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if any(not SMALLEST <= pixels <= LARGEST or pixels % 2 for pixels in size):
        raise ConfigError(
            f"--render-size {text}: WIDTHxHEIGHT is wanted, even numbers from {SMALLEST} to {LARGEST}, such as 480x480."
        )
    return size


MODE = "rgb_array"
FREE, TRACKING = -1, "track"
"""MuJoCo's number of the camera that no model owns, and the name that models give to the one that follows the robot."""
USUAL_FPS = 30.0
"""Of an environment that says nothing of its own."""


class VideoRenderer:
    """Makes the videos of an evaluator's evaluations.

    Args:
        evaluator: whose environments are noted from now on.
        film: what is wanted.

    Attributes:
        seconds: that a frame takes here to be drawn.

    Raises:
        ConfigError: the environments cannot be drawn, or the video not be encoded, here.
    """

    def __init__(self, evaluator: Evaluator, film: VideoRequest) -> None:
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

    def takes(self) -> list[RecordedEpisode]:
        """What the latest evaluation noted."""
        return self._recording.takes

    def render_video(
        self, takes: Sequence[RecordedEpisode], film: VideoRequest, step_done: Callable[[], Any] = bool
    ) -> str:
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

    def _play(self, env: Any, take: RecordedEpisode, encoder: Encoder, step_done: Callable[[], Any]) -> None:
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


def _begin(env: Any, take: RecordedEpisode) -> None:
    env.reset(seed=take.seed, options={"group": take.group})


def _picture(env: Any) -> Frame:
    return np.asarray(env.render())


EVERY = 20.0
"""Seconds between two lines on a film's progress."""
SHOWN = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("steps"),
    TimeRemainingColumn(),
)


class ProgressLines:
    """Tells now and then how far a film is, where no bar can be shown.

    Args:
        say: prints a line.
        total: steps in all.
    """

    def __init__(self, say: Callable[[str], Any], total: int) -> None:
        self._say, self._total, self._done = say, total, 0
        self._told = time.monotonic()

    def __call__(self) -> None:
        """One more step."""
        self._done += 1
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self._say(f"  filming: {self._done:,} of {self._total:,} steps")


@dataclass(frozen=True)
class VideoJob:
    """A replica's video to be.

    Attributes:
        name, step: the replica's, and the updates that its policy has seen.
        film: the file that is wanted.
        takes: the episodes.
    """

    name: str
    step: int
    film: VideoRequest
    takes: list[RecordedEpisode]


class VideoSession:
    """Notes the episodes of each replica's evaluation, and makes the videos when all have been evaluated.

    Args:
        evaluator: that evaluates.
        film: what is wanted.
        replicas: how many will be evaluated; each of several gets a file of its own.

    Raises:
        ConfigError: as `Studio`.
    """

    def __init__(self, evaluator: Evaluator, film: VideoRequest, replicas: int) -> None:
        self._console = Console()
        self._studio, self._film, self._alone = VideoRenderer(evaluator, film), film, replicas == 1
        self._task = evaluator.task
        self._scenes: list[VideoJob] = []
        frames, each = film.episodes * (self._task.episode_limit + 1), self._studio.seconds
        files = f"{replicas} videos" if replicas > 1 else str(film.path)
        self._console.print(
            f"Filming: after the evaluation, {files} of up to {frames:,} frames: "
            f"up to {readable_duration(replicas * frames * each)} ({each:.2f} s a frame here)",
            soft_wrap=True,
        )

    def note(self, name: str, step: int) -> None:
        """A replica has been evaluated."""
        self._scenes.append(VideoJob(name, step, self._film.of(name, self._alone), self._studio.takes()))

    def finish(self, folder: RunFolder | None) -> None:
        """Make the videos and say what they show; send them where the run is recorded.

        Args:
            folder: the run's; None for what is no run of dqlab's.

        Raises:
            RunError: a video could not be written.
        """
        console, waiting = self._console, Console(stderr=True)
        for scene in self._scenes:
            with Progress(*SHOWN, console=waiting, transient=True, disable=not waiting.is_terminal) as progress:
                steps = sum(len(take.actions) for take in scene.takes)
                task = progress.add_task(f"filming {escape(str(scene.film.path))}", total=steps)
                shown = partial(progress.advance, task) if waiting.is_terminal else ProgressLines(console.print, steps)
                about = self._studio.render_video(scene.takes, scene.film, shown)
            console.print(f"Video: {scene.film.path} ({about})", soft_wrap=True)
            for number, take in enumerate(scene.takes, 1):
                score = f", score {float(self._task.score(take.total)):.1f}" if self._task.scored else ""
                lines = f"{len(take.actions)} steps, return {take.total:.1f}{score}"
                console.print(f"  episode {number}: {lines}", soft_wrap=True)
        if folder is not None and is_tracked(folder.path):
            self._send(folder)

    def _send(self, folder: RunFolder) -> None:
        """Videos into the run's folder, and to MLflow; a dead server costs a warning."""
        known = {replica.name for replica in folder.replicas()}
        for scene in self._scenes:
            if scene.name in known:
                keep_video(scene.film.path, folder.replica(scene.name), scene.step)
        try:
            sync_to_mlflow(folder.path)
        except RunError as error:
            print(f"dqlab: warning: {error} The video waits. Later: dqlab sync {folder.path}", file=sys.stderr)
