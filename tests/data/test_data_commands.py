"""`dqlab data`: what it prints, writes, counts, finds wrong and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hub_server import serving

from dqlab.cli import main
from dqlab.data import load_dataset
from dqlab.data.locate import tasks_with_data
from dqlab.data.sources import find_dataset
from dqlab.envs import tasks
from dqlab.files import sha256_of

HOPPER = tasks.get("hopper-medium-v2")
FILE = Path(HOPPER.file).name
AS_HOPPERS = ("--task", HOPPER.name)
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
        assert max((len(line) for line in said.out.splitlines() if "│" in line), default=0) <= 100
        return code, said.out, said.err

    return run


def made(rows: int = 104, **changes: Any) -> dict[str, Any]:
    """A hopper's rows: ten episodes of ten, the last of which are cut or ends in turn, and the beginning of another."""
    rng, number = np.random.default_rng(0), np.arange(rows) // 10
    ends = np.arange(rows) % 10 == 9
    arrays = {
        "observations": rng.normal(size=(rows, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(rows, 3)).astype(np.float32),
        "rewards": number.astype(np.float32),
        "terminals": ends & (number % 2 == 0),
        "timeouts": ends & (number % 2 == 1),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def write(path: Path, rows: int = 104, **changes: Any) -> Path:
    """Such rows in D4RL's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in made(rows, **changes).items():
            file[name] = array
        file["metadata/algorithm"] = "none"
    return path


def test_list(data: Callable[..., Said], folder: Path) -> None:
    """What there is; folders of other programs in Minari's store are passed over."""
    strange = folder / "store" / "other" / "data"
    strange.mkdir(parents=True)
    for content, shown in (({"x": 1}, False), ({"total_episodes": 2, "total_steps": "?"}, True)):
        (strange / "metadata.json").write_text(json.dumps(content))
        code, out, _ = data("list")
        assert (code, "? steps, 2 episodes" in out) == (0, shown)
    assert all(task.name in out for task in tasks_with_data())
    assert f"D4RL's cache: {folder / 'cache'}\n" in out
    path = write(folder / "cache" / FILE)
    here, _, elsewhere = data("list")[1].partition("Not here")
    assert (HOPPER.name in here, HOPPER.name in elsewhere) == (True, False)
    assert ("walker2d-medium-v2" in here, "walker2d-medium-v2" in elsewhere) == (False, True)
    known = json.loads(data("list", "--json")[1])
    sizes = {item["name"]: item["size"] for item in known["d4rl"]}
    assert (sizes[HOPPER.name], sizes["walker2d-medium-v2"]) == (path.stat().st_size, None)
    assert {item["name"] for item in known["embedded"]} == {"hopper-medium-expert-mini", "walker2d-medium-expert-mini"}
    assert "38,483 rows" in data("verify", "walker2d-medium-expert-mini")[1]


def test_info(data: Callable[..., Said], folder: Path) -> None:
    path = write(folder / FILE)
    code, out, _ = data("info", FILE)
    assert code == 0
    saturated = " | ".join(f"{share:.6g}" for share in (np.abs(made()["actions"]) > 0.99).mean(axis=0))
    wanted = (sha256_of(path), HOPPER.name, "normalised score", "episode return", "algorithm", "quartile 1 22.5")
    assert all(words in out for words in (*wanted, saturated))
    known = json.loads(data("info", FILE, "--json")[1])
    counted = ("rows", "transitions", "episodes", "unfinished_rows", "terminals", "timeouts", "timeouts_from")
    assert [known[name] for name in counted] == [104, 98, 10, 4, 5, 5, "recorded"]
    quartiles = {"min": 0, "quartile_1": 22.5, "median": 45, "quartile_3": 67.5, "max": 90}
    spread = pytest.approx(np.arange(0, 100, 10).std())
    assert known["episode_return"] == {**quartiles, "mean": 45, "std": spread}
    assert (known["episode_length"]["min"], known["episode_length"]["max"]) == (10, 10)
    assert known["normalised_score"]["max"] == pytest.approx(HOPPER.score(90.0))
    assert known["columns"]["actions"]["shape"] == [104, 3]
    assert (known["columns"]["rewards"]["min"], known["columns"]["rewards"]["max"]) == (0, 10)
    assert known["metadata"] == {"algorithm": "none"}
    rewards = np.ones(104)
    rewards[[3, 50]] = np.nan, np.inf  # what is not finite stays in its episode
    write(folder / "bad.hdf5", rewards=rewards)
    known = json.loads(data("info", "bad.hdf5", "--json")[1])
    assert (known["columns"]["rewards"]["nan"], known["columns"]["rewards"]["infinite"]) == (1, 1)
    assert (known["episode_return"]["mean"], known["episodes"]) == (10, 10)


def test_what_followed_says_where_episodes_were_cut(data: Callable[..., Said], folder: Path) -> None:
    """Rows as D4RL's `qlearning_dataset` returns them, saved, have next observations, and no timeouts."""
    rows = made()
    kept = np.flatnonzero(~rows["timeouts"])[:-1]
    following = np.concatenate([rows["observations"][kept + 1], rows["observations"][-1:]])[: len(kept)]
    saved = {name: rows[name][kept] for name in ("observations", "actions", "rewards", "terminals")}
    np.savez(folder / "saved.npz", **saved, next_observations=following)
    assert data("convert", "saved.npz", "back.hdf5")[0] == 0
    for name in ("saved.npz", "back.hdf5"):
        known = json.loads(data("info", name, *AS_HOPPERS, "--json")[1])
        assert (known["episodes"], known["unfinished_rows"], known["terminals"]) == (11, 0, 5), name
        assert (known["episode_length"]["min"], known["episode_length"]["max"]) == (3, 10)
    assert json.loads(data("info", "saved.npz", "--json")[1])["timeouts_from"] == "next observations"
    np.savez(folder / "mixed.npz", **saved, next_observations=following[::-1])
    assert "no next observation is the next row's" in data("verify", "mixed.npz")[1]


def test_step_limits_where_cuts_are_not_recorded(data: Callable[..., Said], folder: Path) -> None:
    """An episode without an end is cut by the task's limit, as D4RL counts; a conversion writes these cuts down."""
    write(folder / "mine.hdf5", 2500, timeouts=None, terminals=np.zeros(2500, dtype=bool))
    known = json.loads(data("info", "mine.hdf5", *AS_HOPPERS, "--json")[1])
    assert (known["episodes"], known["episode_length"]["max"], known["unfinished_rows"]) == (2, 1000, 500)
    assert known["timeouts_from"] == "step limit"
    assert json.loads(data("info", "mine.hdf5", "--json")[1])["timeouts_from"] == "unknown"
    for given, note in (((), True), (AS_HOPPERS, False)):
        assert ("nothing says where episodes were cut" in data("verify", "mine.hdf5", *given)[1]) == note
    assert data("convert", "mine.hdf5", "mine.npz", *AS_HOPPERS)[0] == 0
    assert np.flatnonzero(np.load("mine.npz")["timeouts"]).tolist() == [999, 1999]
    assert "limit of 1,000 steps" not in data("verify", "mine.npz", *AS_HOPPERS)[1]


def test_verify(data: Callable[..., Said], folder: Path) -> None:
    path = write(folder / FILE, 100)
    sound = f"{FILE}: sound: 100 rows, 95 transitions, 10 episodes, SHA-256 {sha256_of(path)}\n"
    assert data("verify", FILE) == (0, sound, "")
    write(folder / "bad.hdf5", 100, rewards=np.full(100, np.nan), actions=np.full((100, 3), 2.0))
    (folder / "cut.hdf5").write_bytes(path.read_bytes()[:3000])
    code, out, _ = data("verify", FILE, "bad.hdf5", "cut.hdf5", *AS_HOPPERS)
    assert code == 2
    lines = out.removeprefix(sound).splitlines()
    damage = "'rewards' has 100 NaN(s) and 0 infinite value(s) in 100 row(s), first in row 0"
    assert lines[0] == f"bad.hdf5: damage: {damage}"
    assert lines[1].startswith("bad.hdf5: note: actions of 100 row(s) lie outside of [-1, 1]: they reach from 2 to 2; ")
    assert all(way in lines[1] for way in ("load_dataset.action_bounds='env'", "'as_is'"))
    assert lines[-1].startswith("cut.hdf5: damage: ")


ROWS = np.arange(40)
ZEROS = np.zeros((40, 11)) * np.where(ROWS % 3, 1.0, -1.0)[:, None]  # minus zero is zero
FINDINGS: dict[str, dict[str, Any]] = {
    "damage: 'rewards' has 1 NaN(s) and 0 infinite value(s) in 1 row(s), first in row 39": {
        "rewards": np.r_[np.arange(39.0), np.nan]
    },
    "damage: 'observations' is 4 wide, hopper-medium-v2's is 11: another task's": {
        "observations": np.random.default_rng(0).normal(size=(40, 4))
    },
    "damage: 'terminals' is neither 0 nor 1 in 40 row(s)": {"terminals": np.full(40, 0.5)},
    "note: 2 row(s) are both terminal and timeout": {"timeouts": ROWS % 10 == 9},
    "note: the last 29 row(s) belong to an episode": {"terminals": ROWS == 10, "timeouts": np.zeros(40)},
    "note: 'rewards' never changes in dimension(s) 0": {"rewards": np.ones(40)},
    "note: 'actions' never changes in dimension(s) 1": {"actions": np.linspace(-1, 1, 40)[:, None] * [1, 0, 1]},
    "note: 38 row(s) repeat an earlier row's": {
        "observations": ZEROS,
        "actions": np.zeros((40, 3)),
        "rewards": ROWS % 2,
    },
    "note: 36 row(s) inside of episodes have a next": {"next_observations": np.zeros((40, 11))},
    "note: 1 episode(s) are longer than hopper-medium-v2's limit of 1,000 steps, up to 1,200": {
        "rows": 1200,
        "terminals": np.arange(1200) == 1199,
        "timeouts": np.zeros(1200),
    },
    "note: every episode is terminal at hopper-medium-v2's limit of 1,000 steps": {
        "rows": 2000,
        "terminals": np.arange(2000) % 1000 == 999,
        "timeouts": np.zeros(2000),
    },
}


@pytest.mark.parametrize("message", FINDINGS)
def test_findings(message: str, data: Callable[..., Said], folder: Path) -> None:
    np.savez(folder / "odd.npz", **made(**{"rows": 40, **FINDINGS[message]}))
    code, out, _ = data("verify", "odd.npz", *AS_HOPPERS)
    assert f"odd.npz: {message}" in out
    assert (code == 2) == message.startswith("damage") == ("damage" in out)


def test_convert(data: Callable[..., Said], folder: Path) -> None:
    """The same transitions, or a line that says which are lost: D4RL's layout does not say what followed cut rows."""
    states = np.random.default_rng(1).normal(size=(105, 11)).astype(np.float32)
    rows = made(observations=states[:-1], next_observations=states[1:] + 0.5)
    np.savez(folder / "one.npz", **rows, metadata=['{"note": "mine"}'])
    counts = "104 rows, 98 transitions, 10 episodes"
    for source, target, lines in (
        ("one.npz", "two.npz", ["104 rows, 104 transitions, 10 episodes"]),
        ("one.npz", "three.hdf5", [counts, "Lost: 6 of 104 transition(s): it does not say"]),
        ("three.hdf5", "four.npz", [counts]),
        ("four.npz", "five.hdf5", [counts]),
    ):
        code, out, _ = data("convert", source, target)
        assert (code, out.count("\n")) == (0, len(lines))
        assert all(line in out for line in lines)
        assert data("info", target)[1].count("mine") == 1
        before, after = (load_dataset(HOPPER, f"file:{name}").fields for name in (source, target))
        kept = slice(None) if len(lines) == 1 else np.flatnonzero(~rows["timeouts"][:-1])
        for name in ("state", "action", "reward", "terminal"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[kept])
        if len(lines) == 1:
            np.testing.assert_array_equal(after.next_state, before.next_state)
    digest, origin = sha256_of(folder / "two.npz"), sha256_of(folder / "one.npz")
    assert "exists. --force replaces it" in data("convert", "three.hdf5", "two.npz")[2]
    assert "read and written at once" in data("convert", "two.npz", "two.npz", "--force")[2]
    assert sha256_of(folder / "two.npz") == digest
    assert data("convert", "three.hdf5", "two.npz", "--force")[0] == 0
    assert origin in json.loads(np.load("two.npz")["metadata"].item())["converted_from"]


def test_only_d4rls_own_file_counts_as_such(
    data: Callable[..., Said], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an excerpt, for D4RL's has a million rows, nor what was converted or collected."""
    target = write(folder / "cache" / FILE)
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    monkeypatch.setattr("dqlab.data.sources.SHARE", 1e-4)
    assert find_dataset(HOPPER, "d4rl_cache").is_d4rl
    assert data("convert", target, "mine.npz")[0] == data("convert", "mine.npz", target, "--force")[0] == 0
    assert json.loads(data("info", HOPPER.name, "--json")[1])["rows"] == 104
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    with h5py.File(write(target), "a") as file:
        file["metadata/provenance"] = "Collected by dqlab; not D4RL."
    assert find_dataset(HOPPER, "d4rl_cache").caveat == "not D4RL"
    target.write_bytes(b"damaged")  # whoever reads it says so
    assert find_dataset(HOPPER, "d4rl_cache").is_d4rl


MISTAKES = {
    "'hopper-medium-v2' is a task": ["convert", "mine.hdf5", "hopper-medium-v2"],
    "MinariFormat is a format that is only read": ["convert", "mine.hdf5", "minari:made/hopper-v0"],
    "Did you mean 'hopper-medium-v2'": ["info", "hoper-medium-v2"],
    "`dqlab data download hopper-medium-v2` fetches it": ["info", "hopper-medium-v2"],
    "There is no dataset at none.hdf5": ["verify", "none.hdf5"],
    "No format of datasets has the suffix of 'mine.csv'. Known: .hdf5, .h5": ["convert", "mine.hdf5", "mine.csv"],
    "Unknown task 'hoper-medium-v2'": ["info", "mine.hdf5", "--task", "hoper-medium-v2"],
    "bandit-2d is not a task of D4RL's": ["download", "bandit-2d"],
    "Unknown task 'walker2d'": ["download", "hopper-medium-v2", "walker2d"],
    "There is no dataset at folder.hdf5": ["info", "folder.hdf5"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_line(words: str, data: Callable[..., Said], folder: Path) -> None:
    write(folder / "mine.hdf5")
    (folder / "folder.hdf5").mkdir()
    code, _, err = data(*MISTAKES[words])
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("dqlab: error: ")
    assert words in err


def test_download(data: Callable[..., Said], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *about: None)
    there = write(folder / "server" / HOPPER.file)
    target = folder / "cache" / FILE
    with serving(partial(SimpleHTTPRequestHandler, directory=folder / "server")) as url:
        mirror = ("--from", f"d4rl_download:{url}")
        code, out, err = data("download", "walker2d-medium-v2", HOPPER.name, *mirror)
        assert code == 2
        assert out.startswith(f"hopper-medium-v2: {target} (")
        assert err.startswith("dqlab: error: walker2d-medium-v2: No dataset for walker2d-medium-v2.")
        assert "404" in err
        assert target.read_bytes() == there.read_bytes()
        write(there, rows=50)
        code, out, _ = data("download", HOPPER.name, *mirror)
        assert (code, out.split(" (")[0]) == (0, f"hopper-medium-v2: already there: {target}")
        assert data("download", HOPPER.name, "--force", *mirror)[0] == 0
        assert target.read_bytes() == there.read_bytes()
    code, out, _ = data("download", "walker2d-medium-v2", "--from", "embedded")
    assert code == 0
    assert "walker2d-medium-expert-mini.hdf5" in out
    assert "not in D4RL's cache: train on it with load_dataset.sources=('embedded',)" in out
