"""Videos for real, on EGL or OSMesa: they show the evaluation's episodes, whole or not at all, here and in MLflow."""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import isolated
from made_packs import CELLS, run_pack
from mlflow_stores import fresh_store
from PIL import Image

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.envs import tasks
from dqlab.envs.backend import Environments
from dqlab.envs.bandit import BANDIT
from dqlab.envs.custom import describe_environment
from dqlab.errors import ConfigError, RunError
from dqlab.policies.base import Dims
from dqlab.runs import evaluate_run
from dqlab.runs.evaluate import GIF_FPS, VideoRecorder, choose_gl, drawn_env, picture_of, write_video
from dqlab.runs.load_policy import load_policies
from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.sync import sync_to_mlflow
from dqlab.training import Evaluator, Pack

HOPPER = tasks.get("hopper-medium-v2")
FPS = 125.0
"""Of gym's hopper."""


@pytest.fixture(scope="module", autouse=True)
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
        patch.setattr("dqlab.runs.evaluate.choose_gl", lambda: found)
        yield found


def evaluated(path: Path | None) -> Any:
    """What an untrained policy did in three episodes, filmed or not."""
    evaluator = Evaluator(HOPPER, "mujoco210", 3)
    pack = Pack([BehaviourCloning()], Dims(HOPPER.state_dim, HOPPER.action_dim), [4])
    with VideoRecorder(evaluator, path).film("seed-4", 0) if path else nullcontext():
        return evaluator.run(pack, 0)[0]


def frames(path: Path) -> list[np.ndarray]:
    """Of an .mp4."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    assert about["fps"] == FPS
    width, height = about["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_it_shows_the_evaluation(tmp_path: Path) -> None:
    """Its first episode, a state more than it has steps; the evaluation is the same. The GIF has every fifth."""
    result, plain = evaluated(tmp_path / "new" / "a.mp4"), evaluated(None)
    assert result.returns.tolist() == plain.returns.tolist()
    count = int(plain.lengths[0]) + 1
    shown = frames(tmp_path / "new" / "a.mp4")
    assert len(shown) == count
    assert shown[0].shape == (480, 480, 3)
    apart = [float(np.abs(frame.astype(float) - shown[0]).mean()) for frame in shown]
    assert apart[-1] > 2 * apart[1], "it moves"
    evaluated(tmp_path / "a.GIF")
    every = math.ceil(FPS / GIF_FPS)
    with Image.open(tmp_path / "a.GIF") as picture:
        assert picture.n_frames == math.ceil(count / every)
        assert (picture.size, picture.info["duration"], picture.info["loop"]) == ((480, 480), 1000 * every / FPS, 0)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(float) - shown[0]).mean() < 12
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.GIF", "a.mp4"]


def pixels_of_the_robot(env: Any) -> int:
    """Pixels of the film's picture that are others without the robot, of which the first actuator moves a part."""
    model, shown = env.unwrapped.model, picture_of(env, "the robot").astype(int)
    groups, root = model.geom_group.copy(), model.body_rootid[model.jnt_bodyid[model.actuator_trnid[0, 0]]]
    model.geom_group[model.body_rootid[model.geom_bodyid] == root] = 5  # which is not drawn
    hidden = picture_of(env, "the robot").astype(int)
    model.geom_group[:] = groups  # several environments may share the model
    return int((np.abs(shown - hidden).max(axis=-1) > 30).sum())


SCENES = {(task.item.env_id, task.item.env_kwargs.get("maze")): task.name for task in tasks if task.item.file}
"""A task of each that dqlab ships and draws."""


@pytest.mark.parametrize("name", [*SCENES.values(), "Hopper-v5", "Ant-v5"])
def test_the_robot_is_seen_from_start_to_end(name: str) -> None:
    """Where it has run 50 m, or reached its goal: a camera that stood still would see an empty floor."""
    task = tasks.get(name) if name in tasks else describe_environment(name)
    if task.extra == "robotics":
        pytest.importorskip("gymnasium_robotics")
    import mujoco

    with closing(drawn_env(task, "mujoco210")) as env:
        env.reset(seed=1, options={"group": 1})
        base = env.unwrapped
        assert pixels_of_the_robot(env) > 12
        if hasattr(base, "maze"):
            base.data.qpos[:2] = base.goal
        elif base.model.joint(0).name.startswith("root"):
            base.data.qpos[0] += 50
        mujoco.mj_forward(base.model, base.data)
        assert pixels_of_the_robot(env) > 12, "at the end"


def write(path: Path, pictures: int, error: type[BaseException] | None = None) -> None:
    noise = np.random.default_rng(0)
    with write_video(path, 30.0) as add_frame:
        for _ in range(pictures):
            add_frame(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        if error:
            raise error


def write_on_a_full_disk(path: Path) -> None:
    """In a process of its own, which may write 4 KB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with pytest.raises(RunError, match=r"The video .* Free some space"):
        write(path, 60)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    """No space in the middle, for real; an earlier video stays."""
    (tmp_path / name).write_text("an earlier one")
    process = multiprocessing.get_context("fork").Process(target=write_on_a_full_disk, args=(tmp_path / name,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name, 1, KeyboardInterrupt)
    assert (tmp_path / name).read_text() == "an earlier one"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `.mp4` without ffmpeg; an environment that draws nothing, or fails in it."""
    hopper, elsewhere = Evaluator(HOPPER, "mujoco210", 1), Evaluator(HOPPER, "mujoco210", 1)
    elsewhere.environments = Mock(spec=Environments)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    for evaluator, name, said in (
        (hopper, "a.avi", r"ends with \.mp4 or \.gif"),
        (Evaluator(BANDIT, "mujoco210", 1), "a.gif", "bandit-2d has nothing to draw"),
        (elsewhere, "a.gif", "Gymnasium's environments only"),
        (hopper, "a.mp4", r"pip install .*\[video\]'"),
    ):
        with pytest.raises(ConfigError, match=said):
            VideoRecorder(evaluator, tmp_path / name)
    assert not list(tmp_path.iterdir())
    for render, said in (
        (Mock(side_effect=ValueError("no lens\nat all")), r"raised ValueError: no lens \("),
        (Mock(return_value=None), "gives no picture: uint8 of"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            picture_of(Mock(render=render), "mine")
        assert "\n" not in str(caught.value)


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


def artifacts(run: Path) -> dict[str, list[str]]:
    """Videos of a run's two cells in the store beside it."""
    client, sent = mlflow_client(f"sqlite:///{run.parent}/mlflow.db"), json.loads((run / "mlflow.json").read_text())
    known = {name: client.list_artifacts(sent["runs"][name]["run"], "videos") for name in ("cell-a", "cell-b")}
    return {name: [file.path for file in files] for name, files in known.items()}


def test_a_runs_videos_are_its_artifacts(
    opengl: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file for each replica; MLflow gets it at the next sync where the server is dead, and at once where it is not.

    The command line draws with the user's own OpenGL, without a display.
    """
    trained = tmp_path_factory.mktemp("runs") / "run"
    few = ("Training.steps=10", "Training.eval_every=10", "Training.evaluate_untrained=False")
    run_pack(trained, {name: CELLS[name] for name in ("cell-a", "cell-b")}, *few, "Training.execution='eager'")
    fresh_store(trained.parent)
    sync_to_mlflow(trained)
    command = [sys.executable, "-m", "dqlab", "eval", str(trained), "--render", "a.mp4"]
    env = {name: value for name, value in isolated(tmp_path).items() if name != "DISPLAY"}
    own = "OSMesa" if opengl == "osmesa" else "EGL"  # as MuJoCo takes it and Gymnasium does not
    env |= {"MUJOCO_GL": own, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"dqlab sync {trained}" in done.stderr
    assert "Video: a-cell-a.mp4\nVideo: a-cell-b.mp4\n" in done.stdout
    assert len(frames(tmp_path / "a-cell-b.mp4")) > 5
    name = "videos/step-000000010"
    assert artifacts(trained) == {"cell-a": [], "cell-b": []}
    sync_to_mlflow(trained)
    assert artifacts(trained) == {cell: [f"{name}.mp4"] for cell in ("cell-a", "cell-b")}
    file = next((trained / "cell-b" / "checkpoints").glob("*.safetensors"))
    evaluate_run(load_policies(trained, str(file)), None, video=tmp_path / "b.gif")
    printed, summary = capsys.readouterr().out, json.loads((trained / "cell-b" / "summary.json").read_text())
    assert f"{summary['selection']['last']['return_mean']:.1f}" in printed, "the evaluation is the recorded one"
    assert artifacts(trained) == {"cell-a": [f"{name}.mp4"], "cell-b": [f"{name}.gif", f"{name}.mp4"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cell-a.mp4", "a-cell-b.mp4", "b.gif"]
