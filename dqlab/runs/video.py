"""Videos of evaluations: the episodes are noted while they are evaluated, and played again where there is a camera.

So the evaluation is the same with a video and without one.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dqlab.envs import make_env
from dqlab.envs.backend import Array, Environments, GymnasiumEnvironments, StepResult
from dqlab.envs.rendering import choose_gl
from dqlab.errors import ConfigError, RunError, message_of
from dqlab.files import atomic_path
from dqlab.machine import readable_duration
from dqlab.printing import Console
from dqlab.tracking import RunFolder
from dqlab.tracking.mlflow.mirror import is_tracked, sync_to_mlflow
from dqlab.tracking.mlflow.tree import VIDEOS
from dqlab.training import Evaluator

Frame = NDArray[np.uint8]
SUFFIXES = (".mp4", ".gif")
SMALLEST, LARGEST = 16, 4096
GIF_FPS = 25
"""Viewers show GIFs of more than 50 pictures a second slowly; from this on, pictures are left out evenly."""


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
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--render {path}: a file that ends with {' or '.join(SUFFIXES)} is wanted.")
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
        if self.path.suffix.lower() == ".mp4":
            ffmpeg()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.path.parent).close()

    def left_out(self, fps: float) -> int:
        """Of so many frames one is shown."""
        return math.ceil(fps / GIF_FPS) if self.path.suffix.lower() == ".gif" else 1


def _size(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d+)[xX](\d+)", text)
    size = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if any(not SMALLEST <= pixels <= LARGEST or pixels % 2 for pixels in size):
        raise ConfigError(
            f"--render-size {text}: WIDTHxHEIGHT is wanted, even numbers from {SMALLEST} to {LARGEST}, such as 480x480."
        )
    return size


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


def write_video(path: Path, frames: Iterator[Frame], fps: float) -> tuple[int, int]:
    """Write frames (height, width, 3) into an .mp4 (H.264) or a .gif that repeats; returns width and height.

    Raises:
        RunError: the file could not be written; there is none then, or the one that was there.
    """
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    try:
        with atomic_path(path) as temporary:
            (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(temporary, chain([first], frames), size, fps)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"The video {path} could not be written: {reason}. Free some space, or choose another place."
        ) from error
    return size


def _write_mp4(path: Path, frames: Iterator[Frame], size: tuple[int, int], fps: float) -> None:
    import imageio_ffmpeg

    container = ["-movflags", "+faststart", "-f", "mp4"]
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, quality=6, macro_block_size=2, ffmpeg_log_level="quiet", output_params=container
    )
    given = 0
    with closing(writer):
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
            given += 1
    try:  # ffmpeg does not say that a disk is full
        written = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError as error:
        raise OSError("ffmpeg could not end it") from error
    if written != given:
        raise OSError(f"it has {written} of {given} frames")


def _write_gif(path: Path, frames: Iterator[Frame], size: tuple[int, int], fps: float) -> None:
    from PIL import Image

    pictures = (Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE) for frame in frames)
    next(pictures).save(path, "GIF", save_all=True, append_images=pictures, duration=1000 / fps, loop=0)


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


class RecordingEnvironments(Environments):
    """Other environments, whose first episodes are noted.

    Args:
        played: the environments.
        count: how many episodes are noted.

    Attributes:
        episodes: of the latest reset.
    """

    def __init__(self, played: Environments, count: int) -> None:
        self._played, self._count = played, count
        self.episodes: list[RecordedEpisode] = []

    def prepare(self, count: int) -> None:
        self._played.prepare(count)

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        self.episodes = [RecordedEpisode(*pair) for pair in islice(zip(seeds, groups, strict=True), self._count)]
        return self._played.reset(seeds, groups)

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        stepped = self._played.step(which, actions)
        for number, action, reward in zip(which, actions, stepped.reward, strict=True):
            if number < len(self.episodes):
                self.episodes[number].actions.append(action.copy())
                self.episodes[number].total += float(reward)
        return stepped

    def close(self) -> None:
        self._played.close()


MODE = "rgb_array"
FREE, TRACKING = -1, "track"
"""MuJoCo's number of the camera that no model owns, and the name that models give to the one that follows the robot."""
USUAL_FPS = 30.0
"""Of an environment that says nothing of its own."""


class VideoJob:
    """The videos of an evaluator's evaluations: episodes are noted, and played again when all have been evaluated.

    Args:
        evaluator: whose environments are noted from now on.
        request: what is wanted.
        replicas: how many will be evaluated; each of several gets a file of its own.

    Attributes:
        recording: the environments, with the episodes of the latest evaluation.

    Raises:
        ConfigError: the environments cannot be drawn, or the video not be encoded, here.
    """

    def __init__(self, evaluator: Evaluator, request: VideoRequest, replicas: int = 1) -> None:
        request.check(evaluator.episodes)
        self._task, self._physics = evaluator.task, evaluator.physics
        self._request, self._alone = request, replicas == 1
        self._noted: list[tuple[str, int, list[RecordedEpisode]]] = []
        self._console = Console()
        environments = evaluator.environments
        if not isinstance(environments, GymnasiumEnvironments):
            environments.close()
            raise ConfigError("--render draws Gymnasium's environments only: Experiment.env_backend='gymnasium'.")
        choose_gl()
        with self.camera() as env:
            seconds = _try_out(env, self._task.name) / request.left_out(_fps(env))
        self.recording = evaluator.environments = RecordingEnvironments(environments, request.episodes)
        frames = request.episodes * (self._task.episode_limit + 1)
        files = f"{replicas} videos" if replicas > 1 else str(request.path)
        self._console.print(
            f"Filming: after the evaluation, {files} of up to {frames:,} frames: "
            f"up to {readable_duration(replicas * frames * seconds)} ({seconds:.2f} s a frame here)",
            soft_wrap=True,
        )

    def note(self, name: str, step: int) -> None:
        """A replica has been evaluated, after so many updates."""
        self._noted.append((name, step, self.recording.episodes))

    def finish(self, folder: RunFolder | None) -> None:
        """Make the videos and say what they show; send them where the run is recorded.

        Args:
            folder: the run's; None for what is no run of dqlab's.

        Raises:
            RunError: a video could not be written.
        """
        waiting = Console(stderr=True)
        for name, _, episodes in self._noted:
            path = self._file_of(name)
            with Progress(*COLUMNS, console=waiting, transient=True, disable=not waiting.is_terminal) as progress:
                steps = sum(len(episode.actions) for episode in episodes)
                task = progress.add_task(f"filming {escape(str(path))}", total=steps)
                about = self.render(episodes, path, partial(progress.advance, task))
            self._console.print(f"Video: {path} ({about})", soft_wrap=True)
            for number, episode in enumerate(episodes, 1):
                score = f", score {float(self._task.score(episode.total)):.1f}" if self._task.scored else ""
                lines = f"{len(episode.actions)} steps, return {episode.total:.1f}{score}"
                self._console.print(f"  episode {number}: {lines}", soft_wrap=True)
        if folder is not None and is_tracked(folder.path):
            self._send(folder)

    def _file_of(self, name: str) -> Path:
        path = self._request.path
        return path if self._alone else path.with_stem(f"{path.stem}-{name}")

    def _send(self, folder: RunFolder) -> None:
        """Videos into the run's folder, and to MLflow; a dead server costs a warning."""
        known = {replica.name for replica in folder.replicas()}
        for name, step, _ in self._noted:
            if name in known:
                keep_video(self._file_of(name), folder.replica(name), step)
        try:
            sync_to_mlflow(folder.path)
        except RunError as error:
            print(f"dqlab: warning: {error} The video waits. Later: dqlab sync {folder.path}", file=sys.stderr)

    def render(self, episodes: Sequence[RecordedEpisode], path: Path, step_done: Callable[[], Any] = bool) -> str:
        """Play episodes again and write the video; returns its size and speed in words.

        Args:
            episodes: at least one.
            path: the file.
            step_done: called after every step; without a GPU a second of video may take many.
        """
        with self.camera() as env:
            every = replace(self._request, path=path).left_out(_fps(env))
            fps = _fps(env) / every
            states = chain.from_iterable(self._states(env, episode, step_done) for episode in episodes)
            width, height = write_video(path, (picture_of(env) for _ in islice(states, 0, None, every)), fps)
        return f"{width}x{height}, {fps:g} frames/s"

    @contextmanager
    def camera(self) -> Iterator[Any]:
        """An environment that draws.

        Raises:
            ConfigError: the task's draws nothing, or not at this size.
        """
        size = dict(zip(("width", "height"), self._request.size or (), strict=False))
        nothing = f"--render: {self._task.name} has nothing to draw."
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a render mode that is not there
                env = make_env(self._task, self._physics, render_mode=MODE, **size)
        except ConfigError as error:
            if not isinstance(error.__cause__, TypeError):  # of an argument that is not there
                raise
            own_size = f"{self._task.name} is drawn at its own size only: leave out --render-size."
            raise ConfigError(nothing if "render_mode" in str(error) else own_size) from error
        try:
            if MODE not in env.metadata.get("render_modes", ()):
                raise ConfigError(nothing)
            _follow(env)
            yield env
        finally:
            env.close()

    def _states(self, env: Any, episode: RecordedEpisode, step_done: Callable[[], Any]) -> Iterator[None]:
        """Bring the environment to each state of an episode; a warning where its return is not the evaluation's."""
        env.reset(seed=episode.seed, options={"group": episode.group})
        yield
        total = 0.0
        for action in episode.actions:
            total += float(env.step(action)[1])
            yield
            step_done()
        if abs(total - episode.total) > 1e-6 * max(1.0, abs(episode.total)):
            text = f"the episode in the video has the return {total:.1f}, the evaluation's had {episode.total:.1f}"
            print(f"dqlab: warning: {text}: {self._task.env_id} does not repeat an episode", file=sys.stderr)


def keep_video(video: Path, replica: Path, step: int) -> Path:
    """Copy a video of a policy of `step` updates into its replica's folder; returns the copy."""
    kept = replica / VIDEOS / f"step-{step:09d}{video.suffix.lower()}"
    if not (kept.exists() and kept.samefile(video)):
        with atomic_path(kept) as temporary:
            shutil.copyfile(video, temporary)
    return kept


COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("steps"),
    TimeRemainingColumn(),
)


def picture_of(env: Any) -> Frame:
    """What an environment's camera sees, (height, width, 3)."""
    return np.asarray(env.render())


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
        picture_of(env)  # the first one takes longer: it compiles what draws
        started = time.monotonic()
        picture_of(env)
        return time.monotonic() - started
    except (ImportError, gymnasium.error.Error) as error:
        raise ConfigError(f"--render: {name} cannot be drawn here: {message_of(error)}") from error
