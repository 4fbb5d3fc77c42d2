"""Videos for real, on EGL or OSMesa: they show the evaluation's episodes, whole or not at all, here and in MLflow."""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import isolated
from made_packs import CELLS, run_pack
from mlflow_stores import fresh_store
from PIL import Image

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.envs import tasks
from dqlab.envs.bandit import BANDIT
from dqlab.envs.custom import describe_environment
from dqlab.envs.rendering import choose_gl
from dqlab.errors import ConfigError, RunError
from dqlab.policies.base import Dims
from dqlab.runs import evaluate_run, video
from dqlab.runs.video import GIF_FPS, VideoJob, VideoRequest, ffmpeg, picture_of, write_video
from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.mirror import sync_to_mlflow
from dqlab.training import Evaluator, Pack

HOPPER = tasks.get("hopper-medium-v2")
FPS = 125.0
"""Of gym's hopper."""
FILM = partial(VideoRequest, episodes=2, size=(64, 48))


@pytest.fixture(scope="module")
def opengl() -> Iterator[str]:
    """What draws here, tried once: each try is a process that imports MuJoCo."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
            patch.setenv(name, "")
            patch.delenv(name)
        try:
            found = choose_gl()
        except ConfigError:
            found = "glfw"
        if found == "glfw":
            pytest.skip("neither EGL nor OSMesa draws anything here")
        yield found


@pytest.fixture(autouse=True)
def chosen(opengl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "choose_gl", lambda: opengl)


def evaluated(film: VideoRequest) -> tuple[VideoJob, Any]:
    """The job, and what an untrained policy did in three episodes."""
    evaluator = Evaluator(HOPPER, "mujoco210", 3)
    job = VideoJob(evaluator, film)
    pack = Pack([BehaviourCloning()], Dims(HOPPER.state_dim, HOPPER.action_dim), [4])
    return job, evaluator.run(pack, 0)[0]


def frames(path: Path) -> list[np.ndarray]:
    """Of an .mp4."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    assert about["fps"] == FPS
    width, height = about["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_it_shows_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first episodes, one after the other; each is a state more than it has steps. The GIF has every fifth."""
    job, result = evaluated(film := FILM(tmp_path / "new" / "a.mp4"))
    takes = job.recording.episodes
    assert [take.total for take in takes] == result.returns[:2].tolist()
    assert [len(take.actions) for take in takes] == result.lengths[:2].tolist()
    assert job.render(takes, film.path) == "64x48, 125 frames/s"
    count = int(result.lengths[:2].sum()) + 2
    shown = frames(film.path)
    assert len(shown) == count
    assert shown[0].shape == (48, 64, 3)
    apart = [float(np.abs(frame.astype(float) - shown[0]).mean()) for frame in shown]
    begins = int(result.lengths[0]) + 1
    assert apart[begins] < 0.7 * apart[begins - 1], "the second episode begins where the first one did"
    assert apart[begins - 1] > 2 * apart[1], "the first one moves"
    gif = FILM(tmp_path / "a.gif")
    job.render(takes, gif.path)
    every = math.ceil(FPS / GIF_FPS)
    with Image.open(gif.path) as picture:
        assert picture.n_frames == math.ceil(count / every)
        assert (picture.size, picture.info["duration"], picture.info["loop"]) == ((64, 48), 1000 * every / FPS, 0)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(float) - shown[0]).mean() < 12
    assert capsys.readouterr().err == "", "the episodes repeat"
    takes[0].seed += 1
    job.render(takes[:1], gif.path)
    assert "Hopper-v4 does not repeat an episode" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.gif", "a.mp4"]


def robot(model: Any) -> list[int]:
    """Geoms of what the actuators move: bodies of their joints, and all that hangs on them."""
    moved = {int(model.jnt_bodyid[joint]) for joint in model.actuator_trnid[:, 0]}
    for body in range(model.nbody):  # parents have lower numbers
        moved |= {body} if int(model.body_parentid[body]) in moved else set()
    return [geom for geom in range(model.ngeom) if int(model.geom_bodyid[geom]) in moved]


def pixels_of_the_robot(env: Any) -> int:
    """Pixels of the film's picture that are others without the robot; the model, which several share, is put back."""
    model, shown = env.unwrapped.model, picture_of(env).astype(int)
    colours, materials = model.geom_rgba.copy(), model.geom_matid.copy()
    model.geom_rgba[robot(model), 3], model.geom_matid[robot(model)] = 0.0, -1
    hidden = picture_of(env).astype(int)
    model.geom_rgba[:], model.geom_matid[:] = colours, materials
    return int((np.abs(shown - hidden).max(axis=-1) > 30).sum())


def go_on(env: Any, share: float) -> None:
    """To where an episode's robot is after that share of its time: runners run 50 m, an ant reaches its goal."""
    import mujoco

    env.reset(seed=1, options={"group": 1})
    inner = env.unwrapped
    if getattr(inner, "goal", None) is not None and hasattr(inner, "maze"):
        inner.data.qpos[:2] = inner.goal if share else inner.data.qpos[:2]
    elif inner.model.joint(0).name == "rootx":
        inner.data.qpos[0] += 50 * share
    else:
        for _ in range(int(8 * share)):
            env.step(np.full(env.action_space.shape, 0.5, np.float32))
    mujoco.mj_forward(inner.model, inner.data)


def drawable() -> list[str]:
    """A task of each scene that dqlab ships and draws."""
    shipped = [task.item for task in tasks if task.item.file]
    return sorted({(task.env_id, task.env_kwargs.get("maze")): task.name for task in shipped}.values())


@pytest.mark.parametrize("name", [*drawable(), "Hopper-v5", "Ant-v5"])
def test_the_robot_is_seen_from_start_to_end(tmp_path: Path, name: str) -> None:
    """A camera that stands still sees an empty floor after a tenth of an episode; so for environments of the user's."""
    task = tasks.get(name) if name in tasks else describe_environment(name)
    if task.extra == "robotics":
        pytest.importorskip("gymnasium_robotics")
    size = None if "pen" in name or name not in tasks else (200, 200)
    job = VideoJob(Evaluator(task, "mujoco210", 1), VideoRequest(tmp_path / "a.mp4", 1, size))
    with job.camera() as env:
        for share in (0.0, 1.0):
            go_on(env, share)
            assert pixels_of_the_robot(env) > 12, f"after {share:.0%} of the episode"


def interrupted(done: int) -> Iterator[np.ndarray]:
    yield from np.zeros((done, 48, 64, 3), np.uint8)
    raise KeyboardInterrupt


def write_on_a_full_disk(path: Path) -> None:
    """In a process of its own, which may write 4 KB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    noise = np.random.default_rng(0)
    with pytest.raises(RunError, match=r"The video .* Free some space"):
        write_video(path, (noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)), 30.0)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    """No space in the middle, for real; an earlier video stays."""
    (tmp_path / name).write_text("an earlier one")
    process = multiprocessing.get_context("fork").Process(target=write_on_a_full_disk, args=(tmp_path / name,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, interrupted(5), 30.0)
    assert (tmp_path / name).read_text() == "an earlier one"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        ((tmp_path / "a.avi", None, None), r"ends with \.mp4 or \.gif"),
        ((tmp_path / "a.mp4", 0, None), "at least 1"),
        ((tmp_path / "a.mp4", 1, "64"), "WIDTHxHEIGHT"),
        ((tmp_path / "a.mp4", 1, "63x64"), "even numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            VideoRequest.read(*arguments)
    with pytest.raises(ConfigError, match="the evaluation has 3 only"):
        evaluated(VideoRequest(tmp_path / "a.gif", 4))
    with pytest.raises(ConfigError, match="bandit-2d has nothing to draw"):
        VideoJob(Evaluator(BANDIT, "mujoco210", 1), VideoRequest(tmp_path / "a.gif"))
    other = Evaluator(HOPPER, "mujoco210", 1)
    other.environments = VideoJob(Evaluator(HOPPER, "mujoco210", 1), VideoRequest(tmp_path / "a.gif")).recording
    with pytest.raises(ConfigError, match="Gymnasium's environments only"):
        VideoJob(other, VideoRequest(tmp_path / "a.gif"))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'dqlab\[video\]'"):
        ffmpeg()
    assert not list(tmp_path.iterdir())


def test_no_opengl_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EGL without a vendor, an OSMesa that is no library, no display; then an OpenGL of the user's that is not one."""
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    for name in ("libOSMesa.so", "libOSMesa.so.6", "libOSMesa.so.8"):
        (tmp_path / name).write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Nothing can be drawn here: apt-get install .*dqlab doctor"):
        choose_gl()
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(ConfigError, match=r"MUJOCO_GL=nonsense .*Unset it"):
        choose_gl()


def dead_server() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def artifacts(uri: str, run: Path) -> dict[str, list[str]]:
    client, sent = mlflow_client(uri), json.loads((run / "mlflow.json").read_text())
    return {
        name: [file.path for file in client.list_artifacts(known["run"], "videos")]
        for name, known in sent["runs"].items()
        if name != "run"
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two cells, as recorded in a store beside it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    few = ("Training.steps=10", "Training.eval_every=10", "Training.evaluate_untrained=False")
    run_pack(run, {name: CELLS[name] for name in ("cell-a", "cell-b")}, *few, "Training.execution='eager'")
    fresh_store(run.parent)
    sync_to_mlflow(run)
    return run


def test_a_runs_videos_are_its_artifacts(
    trained: Path, opengl: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for each replica; MLflow gets it at the next sync where the server is dead, and at once where it is not.

    The command line draws with the user's own OpenGL, without a display.
    """
    store = f"sqlite:///{trained.parent}/mlflow.db"
    command = [sys.executable, "-m", "dqlab.cli", "eval", str(trained), "--render", "a.mp4", "--render-size", "64x48"]
    env = {name: value for name, value in isolated(tmp_path).items() if name != "DISPLAY"}
    own = "OSMesa" if opengl == "osmesa" else "EGL"  # as MuJoCo takes it and Gymnasium does not
    env |= {"MUJOCO_GL": own, "MLFLOW_TRACKING_URI": dead_server(), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"dqlab sync {trained}" in done.stderr
    assert "Filming: after the evaluation, 2 videos of up to 1,001 frames: up to " in done.stdout
    assert "Video: a-cell-b.mp4 (64x48, 125 frames/s)\n  episode 1:" in done.stdout
    assert len(frames(tmp_path / "a-cell-b.mp4")) > 5
    name = "videos/step-000000010"
    assert artifacts(store, trained) == {"cell-a": [], "cell-b": []}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sync_to_mlflow(trained)
    assert artifacts(store, trained) == {cell: [f"{name}.mp4"] for cell in ("cell-a", "cell-b")}
    file = next((trained / "cell-b" / "checkpoints").glob("*.safetensors"))
    evaluate_run(trained, str(file), None, None, film=VideoRequest(tmp_path / "b.gif", 1, (64, 48)))
    printed, summary = capsys.readouterr().out, json.loads((trained / "cell-b" / "summary.json").read_text())
    assert f"{summary['selection']['last']['return_mean']:.1f}" in printed, "the evaluation is the recorded one"
    assert artifacts(store, trained) == {"cell-a": [f"{name}.mp4"], "cell-b": [f"{name}.gif", f"{name}.mp4"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cell-a.mp4", "a-cell-b.mp4", "b.gif"]


def test_videos_of_a_run_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder"):
        evaluate_run(tmp_path, "last", None, None, film=VideoRequest(tmp_path / "a.gif"))
    assert not (tmp_path / "a.gif").exists()
