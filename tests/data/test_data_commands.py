"""`dqlab data`: what it prints, writes and refuses."""

from __future__ import annotations

import functools
import http.server
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hub_server
import numpy as np
import pytest

from dqlab.cli import main
from dqlab.data.locate import tasks_with_data
from dqlab.data.sources import find_dataset
from dqlab.envs import tasks
from dqlab.files import sha256_of

HOPPER = tasks.get("hopper-medium-v2")
FILE = Path(HOPPER.file).name
Said = tuple[int, str, str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with empty stores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def data(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs `dqlab data ...`: exit code, what was printed, what was complained of."""

    def run(*args: object) -> Said:
        code = main(["data", *map(str, args)])
        said = capsys.readouterr()
        if args[0] in ("list", "info") and "--json" not in args:
            assert max((len(line) for line in said.out.splitlines() if "│" in line), default=0) <= 100
        return code, said.out, said.err

    return run


def write(path: Path, rows: int = 100, **changes: Any) -> Path:
    """A hopper's file in D4RL's layout: ten episodes of ten rows, of which every other one is cut."""
    rng = np.random.default_rng(0)
    ends = np.arange(rows) % 10 == 9
    arrays = {
        "observations": rng.normal(size=(rows, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(rows, 3)).astype(np.float32),
        "rewards": np.ones(rows, dtype=np.float32) * np.repeat(np.arange(rows // 10), 10),
        "terminals": ends & (np.arange(rows) // 10 % 2 == 0),
        "timeouts": ends & (np.arange(rows) // 10 % 2 == 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in {**arrays, **changes}.items():
            file[name] = array
        file["metadata/algorithm"] = "none"
    return path


def test_list(data: Callable[..., Said], folder: Path) -> None:
    code, out, _ = data("list")
    assert code == 0
    for task in tasks_with_data():
        assert task.name in out
    assert f"{folder / 'cache'}"[-20:] in out.replace("\n", "")
    write(folder / "cache" / FILE)
    known = json.loads(data("list", "--json")[1])
    sizes = {item["name"]: item["size"] for item in known["d4rl"]}
    assert sizes["hopper-medium-v2"] == (folder / "cache" / FILE).stat().st_size
    assert sizes["walker2d-medium-v2"] is None
    assert {item["name"] for item in known["embedded"]} == {"hopper-medium-expert-mini", "walker2d-medium-expert-mini"}
    assert {item["size"] for item in known["minari"]} == {None}


def test_list_passes_over_folders_of_other_programs(data: Callable[..., Said], folder: Path) -> None:
    place = folder / "store" / "other" / "data"
    place.mkdir(parents=True)
    (place / "main_data.hdf5").touch()
    for strange in ({"x": 1}, {"total_episodes": None}, {"total_episodes": 2, "total_steps": "?"}):
        (place / "metadata.json").write_text(json.dumps(strange))
        code, out, _ = data("list")
        assert code == 0
        assert ("? steps, 2 episodes" in out) == (strange.get("total_episodes") == 2)


def test_info(data: Callable[..., Said], folder: Path) -> None:
    path = write(folder / FILE)
    code, out, _ = data("info", FILE)
    assert code == 0
    wanted = (sha256_of(path), "hopper-medium-v2", "normalised score", "episode return", "algorithm")
    assert all(words in out for words in (*wanted, "quartile 1 22.5", "0.01 | 0.01 | 0.05"))
    known = json.loads(data("info", FILE, "--json")[1])
    assert (known["rows"], known["episodes"], known["terminals"], known["timeouts"]) == (100, 10, 5, 5)
    quartiles = {"min": 0, "quartile_1": 22.5, "median": 45, "quartile_3": 67.5, "max": 90}
    spread = pytest.approx(np.arange(0, 100, 10).std())
    assert known["episode_return"] == {**quartiles, "mean": 45, "std": spread}
    assert known["normalised_score"]["max"] == pytest.approx(HOPPER.score(90.0))
    assert known["columns"]["actions"]["shape"] == [100, 3]
    assert known["metadata"] == {"algorithm": "none"}
    rewards = np.ones(100)
    rewards[[3, 50]] = np.nan, np.inf
    write(folder / "bad.hdf5", rewards=rewards)
    assert data("info", "bad.hdf5")[0] == 0
    known = json.loads(data("info", "bad.hdf5", "--json")[1])
    assert (known["columns"]["rewards"]["nan"], known["columns"]["rewards"]["infinite"]) == (1, 1)
    assert known["episode_return"]["mean"] == 10
    assert known["episodes"] == 10


def test_verify(data: Callable[..., Said], folder: Path) -> None:
    path = write(folder / FILE)
    code, out, _ = data("verify", FILE)
    assert (code, out) == (0, f"{FILE}: sound: 100 rows, 95 transitions, 10 episodes, SHA-256 {sha256_of(path)}\n")
    write(folder / "bad.hdf5", rewards=np.full(100, np.nan), actions=np.full((100, 3), 2.0))
    (folder / "cut.hdf5").write_bytes(path.read_bytes()[:3000])
    code, out, _ = data("verify", FILE, "bad.hdf5", "cut.hdf5", "--task", "hopper-medium-v2")
    lines = out.splitlines()
    assert code == 2
    assert lines[0].startswith(f"{FILE}: sound")
    assert (
        lines[1] == "bad.hdf5: damage: 'rewards' has 100 NaN(s) and 0 infinite value(s) in 100 row(s), first in row 0"
    )
    assert lines[2].startswith("bad.hdf5: note: actions of 100 row(s) lie outside of [-1, 1]")
    assert lines[-1].startswith("cut.hdf5: damage: ")
    assert data("verify", FILE, "--task", "walker2d-medium-v2")[0] == 2


def test_convert(data: Callable[..., Said], folder: Path) -> None:
    write(folder / FILE)
    code, out, _ = data("convert", FILE, "made.npz")
    assert code == 0
    counts = "100 rows, 95 transitions, 10 episodes"
    assert counts in out
    assert data("convert", FILE, "made.npz")[0] == 2
    assert data("convert", FILE, "made.npz", "--force")[0] == 0
    code, out, _ = data("verify", "made.npz", "--task", "hopper-medium-v2")
    assert (code, counts in out) == (0, True)
    assert "MinariFormat is a format that is only read" in data("convert", FILE, "minari:made/hopper-v0")[2]


def test_minaris_datasets_are_listed_and_converted(data: Callable[..., Said], folder: Path) -> None:
    made = pytest.importorskip("made_minari")
    made.pendulums()
    assert "minari:made/pendulum-v0" in data("list")[1]
    code, out, _ = data("convert", "minari:made/pendulum-v0", "made.hdf5")
    assert code == 0
    assert "transition(s): it does not say what followed rows at which episodes were cut" in out


def test_only_d4rls_own_file_counts_as_such(
    data: Callable[..., Said], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an excerpt, for D4RL's has a million rows, nor what was converted or collected."""
    target = write(folder / "cache" / FILE)
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    monkeypatch.setattr("dqlab.data.sources.SHARE", 1e-4)
    assert data("convert", target, "mine.npz")[0] == 0
    assert data("convert", "mine.npz", target, "--force")[0] == 0
    assert json.loads(data("info", "hopper-medium-v2", "--json")[1])["rows"] == 100
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    write(target)
    assert find_dataset(HOPPER, "d4rl_cache").is_d4rl
    with h5py.File(target, "a") as file:
        file["metadata/provenance"] = "Collected by dqlab; not D4RL."
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    target.write_bytes(b"damaged")  # whoever reads it says so
    assert find_dataset(HOPPER, "d4rl_cache").is_d4rl


MISTAKES = {
    "a task as target": (["convert", "mine.hdf5", "hopper-medium-v2"], "'hopper-medium-v2' is a task"),
    "misspelt task": (["info", "hoper-medium-v2"], "Did you mean 'hopper-medium-v2'"),
    "task without a file": (["info", "hopper-medium-v2"], "`dqlab data download hopper-medium-v2` fetches it"),
    "no such file": (["verify", "none.hdf5"], "There is no dataset at none.hdf5"),
    "no such format": (["convert", "mine.hdf5", "mine.csv"], "No format of datasets has the suffix of 'mine.csv'"),
    "no such task": (["info", "mine.hdf5", "--task", "hoper-medium-v2"], "Unknown task 'hoper-medium-v2'"),
    "task without data": (["download", "bandit-2d"], "bandit-2d"),
    "misspelt download": (["download", "hopper-medium-v2", "walker2d"], "Unknown task 'walker2d'"),
    "a folder": (["info", "folder.hdf5"], "folder.hdf5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake: str, data: Callable[..., Said], folder: Path) -> None:
    write(folder / "mine.hdf5")
    (folder / "folder.hdf5").mkdir()
    args, words = MISTAKES[mistake]
    code, _, err = data(*args)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("dqlab: error: ")
    assert words in err


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_download(data: Callable[..., Said], folder: Path) -> None:
    there = write(folder / "server" / HOPPER.file)
    target = folder / "cache" / FILE
    handler = functools.partial(QuietHandler, directory=str(folder / "server"))
    with hub_server.serving(handler) as url:
        mirror = ("--from", f"d4rl_download:{url}")
        code, out, err = data("download", "walker2d-medium-v2", "hopper-medium-v2", *mirror)
        assert code == 2
        assert out.startswith(f"hopper-medium-v2: {target} (")
        assert err.startswith("dqlab: error: walker2d-medium-v2: No dataset for walker2d-medium-v2.")
        assert "404" in err
        assert target.read_bytes() == there.read_bytes()
        write(there, rows=50)
        code, out, _ = data("download", "hopper-medium-v2", *mirror)
        assert (code, out.split(" (")[0]) == (0, f"hopper-medium-v2: already there: {target}")
        assert data("download", "hopper-medium-v2", "--force", *mirror)[0] == 0
        assert target.read_bytes() == there.read_bytes()
    code, out, _ = data("download", "walker2d-medium-v2", "--from", "embedded")
    assert code == 0
    assert "walker2d-medium-expert-mini.hdf5" in out
    assert "not in D4RL's cache: train on it with load_dataset.sources=('embedded',)" in out
