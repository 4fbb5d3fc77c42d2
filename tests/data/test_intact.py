"""What is intact, but cannot be read now or here, is not called damaged, and nobody is told to delete it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, Done, Run

from dqlab.data.formats.base import format_of
from dqlab.errors import DataError

WRITER = """
import sys, h5py, numpy as np
how, path = sys.argv[1:]
with h5py.File(path, "w", libver="latest" if how == "swmr" else None) as file:
    for name, shape in {"observations": (60, 17), "actions": (60, 6), "rewards": (60,)}.items():
        file[name] = np.full(shape, 0.5, np.float32)
    file["terminals"], file["timeouts"] = np.zeros(60, bool), np.arange(60) % 20 == 19
    if how != "open":
        file.flush()
    if how == "swmr":
        file.swmr_mode = True
    print("written", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(how: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has a file open for writing."""
    command = [sys.executable, "-c", WRITER, how, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        try:
            yield process
        finally:
            process.kill()


def check_words(done: Done, words: str) -> None:
    """One line with these words, and none that says that the file is at fault."""
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert words in said
    for wrong in ("Traceback", "damage", "runcated", "elete", "replaces it", "lost"):
        assert wrong not in said, said
    assert done.stdout.strip() == ""


def test_a_file_that_somebody_writes_is_in_use(in_process: Run, tmp_path: Path) -> None:
    """Rows that are on the disk already, too: there may be more to come."""
    path, source = tmp_path / "mine.hdf5", "load_dataset.sources=('file:mine.hdf5',)"
    with writer("flushed", path) as process:
        check_words(in_process("data", "verify", "mine.hdf5"), "mine.hdf5 is in use: another process has it open")
        run = in_process(
            "train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "-q", "--out", "run", "--set", *TINY, source
        )
        check_words(run, "mine.hdf5 is in use")
        process.communicate()
    assert "60 rows" in in_process("data", "verify", "mine.hdf5").stdout


def test_a_file_that_its_writer_has_not_closed(in_process: Run, tmp_path: Path) -> None:
    """In HDF5's latest format that is marked in the file, also after the writer has been killed."""
    path = tmp_path / "mine.hdf5"
    with writer("swmr", path) as process:
        check_words(in_process("data", "info", "mine.hdf5"), "marked as being written: it is in use")
        process.kill()
        process.wait()
        check_words(in_process("data", "info", "mine.hdf5"), "h5clear")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a Minari dataset, `made/pendulum-v0`."""
    pytest.importorskip("minari")
    from made_minari import pendulums

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    pendulums()
    return tmp_path / "store" / "made" / "pendulum-v0" / "data"


def say(data: Path, **changes: object) -> None:
    """Change a dataset's metadata; None takes an entry out."""
    path = data / "metadata.json"
    known = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in known.items() if value is not None}))


def test_a_dataset_whose_environment_is_not_imported(in_process: Run, dataset: Path) -> None:
    spec = json.loads(json.loads((dataset / "metadata.json").read_text())["env_spec"])
    say(dataset, env_spec=json.dumps({**spec, "entry_point": "lab_of_mine:Env"}), observation_space=None)
    done = in_process("data", "info", "minari:made/pendulum-v0")
    check_words(done, "needs a module that cannot be imported here: No module named 'lab_of_mine'")
    say(dataset, env_spec=json.dumps({**spec, "id": "Mine-v0", "entry_point": None}))
    check_words(in_process("data", "info", "minari:made/pendulum-v0"), "registers it: --plugin MODULE")


def test_a_dataset_that_minari_still_writes(in_process: Run, dataset: Path) -> None:
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(dataset / "main_data.hdf5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        check_words(in_process("data", "info", "minari:made/pendulum-v0"), "is in use: another process has it open")
        process.communicate()
    assert in_process("data", "info", "minari:made/pendulum-v0").returncode == 0


def no_memory(*about: object, **more: object) -> None:
    raise MemoryError


def no_disk(*about: object, **more: object) -> None:
    raise OSError(5, "Input/output error")


TROUBLE = {no_memory: "there is not enough memory", no_disk: "cannot be read: Input/output error"}


@pytest.mark.parametrize("fails", TROUBLE)
def test_trouble_of_the_machine_is_not_the_files(
    d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, fails: Callable[..., None]
) -> None:
    """While a file is opened, while its rows are read, and in an archive."""
    path = d4rl_file()
    np.savez(path.with_suffix(".npz"))
    for name, broken in (
        (path.with_suffix(".npz"), "zipfile.ZipFile.__init__"),
        (path, "h5py.Dataset.__getitem__"),
        (path, "h5py.File.__init__"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(broken, fails)
            with pytest.raises(DataError, match=TROUBLE[fails]):
                format_of(str(name))[0].read(name)
