"""Evaluating what was trained, a run's checkpoints or the official code's; printing the table; filming episodes.

Of a film the first episode is drawn while it is evaluated, which changes nothing of it.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dqlab.config import gin_files
from dqlab.config.gin_state import parameters_read
from dqlab.envs.backend import GymnasiumEnvironments, make_env
from dqlab.envs.boxed import describe_error
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError, first_line, pip_install, score_or_return
from dqlab.files import atomic_path
from dqlab.machine import run_isolated
from dqlab.printing import Console, counted
from dqlab.runs.experiment import build_evaluator, execution_mode
from dqlab.runs.policy import LoadedPolicy
from dqlab.tracking import RunFolder
from dqlab.tracking.mlflow.sync import is_tracked, sync_to_mlflow
from dqlab.tracking.mlflow.tree import VIDEOS
from dqlab.training import Evaluator
from dqlab.training.model_selection import EvaluationEpisodes


def evaluate_run(
    policies: Sequence[LoadedPolicy], episodes: int | None, bindings: Sequence[str] = (), video: Path | None = None
) -> None:
    """Evaluate policies of a run as `evaluate_policies` does, and print a table: a row each.

    A RunError where an evaluation has failed comes once the others are printed.
    """
    with Console(stderr=True).status("playing episodes" + (", and drawing the first one" if video else "")):
        rows, failed = evaluate_policies(policies, episodes, bindings, video)
    first = policies[0]
    with first.ready():
        chunk = first.experiment.action_chunk
        chunks = f", chunks of {counted(chunk, 'action')}" if chunk > 1 else ""
        table = Table(title=f"{first.task.name}, {first.source.name}{chunks}, physics {first.experiment.stepped_by}")
    score = f"score ({first.caveat})" if first.caveat else "score"
    scores = () if score_or_return(first.caveat) == "return" else (score, "std")
    for column in ("replica", "step", "episodes", "return", "std", *scores, "length"):
        words = column in ("replica", score)  # may take a second line; a figure that does not fit would be cut
        table.add_column(column, justify="left" if column == "replica" else "right", no_wrap=not words, overflow="fold")
    for policy, found in rows:
        returns = found.returns
        measured = [returns, policy.task.score(returns)] if policy.task.scored else [returns]
        values = [*(number for each in measured for number in (each.mean(), each.std())), found.lengths.mean()]
        name = policy.replica.title if policy.source.facts else policy.source.file.name
        table.add_row(name, f"{policy.source.step:,}", str(len(returns)), *(f"{value:.1f}" for value in values))
    if rows:
        Console().print(table)
    if failed:
        raise failed[0]


def evaluate_policies(
    policies: Sequence[LoadedPolicy], episodes: int | None, bindings: Sequence[str] = (), video: Path | None = None
) -> tuple[list[tuple[LoadedPolicy, EvaluationEpisodes]], list[RunError]]:
    """The episodes of policies that `load_policies` has loaded, and why others gave none.

    Args:
        policies, episodes: at least one policy; as many episodes as in training where none are given.
        bindings: of the command line; a ConfigError where nothing has read one.
        video: the file of the first episode, one a policy where there are several; kept in the run and MLflow, too.
    """
    first, rows, failed = policies[0], [], []
    with first.ready(), closing(build_evaluator(first.experiment, episodes)) as evaluator:
        evaluator.environments.prepare(evaluator.episodes)
        gin_files.check_parameters_read(bindings, parameters_read())
        mode = execution_mode(first.experiment, first.source.facts).resolve(first.device)
        recorder = VideoRecorder(evaluator, video, len(policies)) if video else None
        for policy in policies:
            try:
                with recorder.film(policy.replica.name, policy.source.step) if recorder else nullcontext():
                    rows.append((policy, policy.evaluate_by(evaluator, mode)))
            except RunError as error:
                failed.append(error)
    if recorder and first.source.facts:
        recorder.keep(first.source.folder)
    return rows, failed


VARIABLE = "MUJOCO_GL"  # the environment variable that MuJoCo reads when it is first imported
SECONDS = 40.0  # for one picture
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
GL_BACKENDS = {
    "EGL": "apt-get install libegl1 libgl1-mesa-dri (or an NVIDIA driver)",
    "OSMesa": "apt-get install libosmesa6 (libosmesa6-dev on older systems)",
    "GLFW": "only windows need it; apt-get install libgl1",
}
"""What can draw, in the order in which it is tried, and what to install; in lower case the values of $MUJOCO_GL."""


def gl_trouble(backend: str = "") -> str:
    """Why a way to draw, or the user's own, gives no picture in a process of its own; empty where it gives one."""
    env = {VARIABLE: backend.lower(), "PYOPENGL_PLATFORM": None} if backend else {}
    return run_isolated(DRAW, timeout=SECONDS, env=env).trouble


def choose_gl() -> str:
    """Set $MUJOCO_GL before mujoco is imported: to the user's own, or the first that draws; ConfigError: none does."""
    if chosen := os.environ.get(VARIABLE):
        if trouble := gl_trouble():
            raise ConfigError(f"Nothing can be drawn with {VARIABLE}={chosen} ({trouble}). Unset it: dqlab chooses.")
        word = chosen.lower().strip()  # gymnasium knows those of `GL_BACKENDS` only; GLFW stands for others
        works = word if word in map(str.lower, GL_BACKENDS) else "glfw"
    else:
        works = next((backend.lower() for backend in GL_BACKENDS if not gl_trouble(backend)), "")
    if not works:
        egl, osmesa, _ = GL_BACKENDS.values()
        raise ConfigError(f"Nothing can be drawn here: {osmesa}, or {egl}. `dqlab doctor` says more.")
    os.environ[VARIABLE] = works
    return works


Frame = NDArray[np.uint8]
SUFFIXES = (".mp4", ".gif")
GIF_FPS = 25  # viewers show GIFs of more than 50 pictures a second slowly; from this on, pictures are left out evenly


class VideoRecorder:
    """Films the first episode of each of an evaluator's evaluations, into an .mp4 or .gif, one a replica.

    Raises ConfigError: it cannot be drawn or encoded here. OSError: its folder cannot be written.
    """

    def __init__(self, evaluator: Evaluator, path: Path, replicas: int = 1) -> None:
        self._path, self._alone = path, replicas == 1
        self._filmed: list[tuple[str, int, Path]] = []
        self._show: Callable[[Frame], None] = lambda frame: None
        if path.suffix.lower() not in SUFFIXES or path.is_dir():
            raise ConfigError(f"--render {path}: a file that ends with {' or '.join(SUFFIXES)} is wanted.")
        if path.suffix.lower() == ".mp4":
            try:
                import imageio_ffmpeg

                imageio_ffmpeg.get_ffmpeg_exe()
            except (ImportError, RuntimeError) as error:
                raise ConfigError(f"An .mp4 needs ffmpeg: {pip_install('video')}. A .gif works without.") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        environments, task = evaluator.environments, evaluator.task
        if not isinstance(environments, GymnasiumEnvironments):
            raise ConfigError("--render draws Gymnasium's environments only: Experiment.env_backend='gymnasium'.")
        choose_gl()
        env = drawn_env(task, evaluator.physics)
        environments.prepare(1)
        environments.envs[0].close()
        environments.envs[0] = env
        self._fps = float(env.metadata.get("render_fps") or 30)

        def draw(which: Sequence[int] = (0,), *_: object) -> None:
            if 0 in which:
                self._show(picture_of(env, task.name))

        evaluator.on_reset, evaluator.on_step = lambda states: draw(), draw

    @contextmanager
    def film(self, name: str, step: int) -> Iterator[None]:
        """Within this, a replica is evaluated, after so many updates; at its end there is a video."""
        path = self._path if self._alone else self._path.with_stem(f"{self._path.stem}-{name}")
        with write_video(path, self._fps) as self._show:
            yield
        self._filmed.append((name, step, path))
        Console().print(f"Video: {path}", soft_wrap=True)

    def keep(self, folder: RunFolder) -> None:
        """Copy the videos into a run's folder, and send them to MLflow; a dead server costs a warning."""
        if not is_tracked(folder.path):
            return
        for name, step, path in self._filmed:
            keep_video(path, folder.replica(name), step)
        try:
            sync_to_mlflow(folder.path)
        except RunError as error:
            print(f"dqlab: warning: {error} The video waits. Later: dqlab sync {folder.path}", file=sys.stderr)


def keep_video(video: Path, replica: Path, step: int) -> Path:
    """Copy a video of a policy of `step` updates into its replica's folder; returns the copy."""
    kept = replica / VIDEOS / f"step-{step:09d}{video.suffix.lower()}"
    if not (kept.exists() and kept.samefile(video)):
        with atomic_path(kept) as temporary:
            shutil.copyfile(video, temporary)
    return kept


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[Frame], None]]:
    """What takes frames (height, width, 3) of an .mp4 or .gif, which is written whole or not at all: a RunError."""
    import imageio.v2

    gif, frames = path.suffix.lower() == ".gif", count()
    every = math.ceil(fps / GIF_FPS) if gif else 1
    options: dict[str, Any] = {"duration": 1000 * every / fps, "loop": 0}
    if not gif:
        options = {"fps": fps, "quality": 6, "macro_block_size": 2, "ffmpeg_log_level": "quiet"}

    def add_frame(frame: Frame) -> None:
        if next(frames) % every == 0:
            writer.append_data(frame)

    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name.lower()
            with closing(imageio.v2.get_writer(temporary, **options)) as writer:
                yield add_frame
            if not gif:
                _check_frames(temporary, next(frames))
            temporary.replace(path)
    except OSError as error:
        reason = f"{error.strerror or first_line(error)}. Free some space, or choose another place"
        raise RunError(f"The video {path} could not be written: {reason}.") from error


def _check_frames(path: Path, expected: int) -> None:
    """See that an .mp4 has all its frames: ffmpeg does not say that a disk is full."""
    import imageio_ffmpeg

    try:
        written = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError as error:
        raise OSError("ffmpeg could not end it") from error
    if written != expected:
        raise OSError(f"it has {written} of {expected} frames")


def drawn_env(task: Task, physics: str) -> Any:
    """A task's environment that draws, tried out; its camera goes with the robot if it names none. Or a ConfigError."""
    env: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a render mode that is not there
            env = make_env(task, physics, render_mode="rgb_array")
    except ConfigError as error:
        if "render_mode" not in str(error):
            raise
    if env is None or "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ConfigError(f"--render: {task.name} has nothing to draw.")
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None and renderer.camera_id in (None, -1):  # a free one would stand still, and lose the robot
        import mujoco

        tracking = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = tracking if tracking >= 0 else renderer.camera_id
    env.reset(seed=0)
    picture_of(env, task.name)
    return env


def picture_of(env: Any, name: str) -> Frame:
    """What an environment's camera sees, (height, width, 3); a ConfigError by its name where that is no picture."""
    try:
        picture = np.asarray(env.render())
    except (Exception, SystemExit) as error:  # somebody's environment
        raise ConfigError(f"--render: {name} cannot be drawn: its render() raised {describe_error(error)}.") from error
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        given = f"{picture.dtype} of shape {picture.shape}"
        raise ConfigError(f"--render: {name} gives no picture: uint8 of shape (height, width, 3), not {given}.")
    return picture
