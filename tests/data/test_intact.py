"""What is intact, but cannot be read now or here, is not called damaged, and nobody is told to delete it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import ROOT, TINY, Done, Run, refused

from dqlab.data.formats.base import format_of
from dqlab.errors import DataError

WRITER = """
import sys, h5py, numpy as np
how, path = sys.argv[1:]
with h5py.File(path, "a", libver="latest" if how == "swmr" else None) as file:
    if how != "again":
        for name, shape in {"observations": (60, 17), "actions": (60, 6), "rewards": (60,)}.items():
            file[name] = np.full(shape, 0.5, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(60, bool), np.arange(60) % 20 == 19
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
    said = refused(done, words)
    assert not [wrong for wrong in ("damage", "runcated", "elete", "replaces it", "lost") if wrong in said], said
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
    with writer("swmr", tmp_path / "mine.hdf5") as process:
        check_words(in_process("data", "info", "mine.hdf5"), "marked as being written: it is in use")
        process.kill()
        process.wait()
        check_words(in_process("data", "info", "mine.hdf5"), "h5clear")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a Minari dataset, `made/pendulum-v0`."""
    made = pytest.importorskip("made_minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    made.pendulums()
    return tmp_path / "store" / "made" / "pendulum-v0" / "data"


def test_a_dataset_whose_environment_is_not_imported(in_process: Run, dataset: Path) -> None:
    known = json.loads((dataset / "metadata.json").read_text())
    spec = json.loads(known["env_spec"])
    del known["observation_space"]
    for changed, said in (
        ({"entry_point": "lab_of_mine:Env"}, "a module that cannot be imported here: No module named 'lab_of_mine'"),
        ({"id": "Mine-v0", "entry_point": None}, "registers it: --plugin MODULE"),
    ):
        (dataset / "metadata.json").write_text(json.dumps({**known, "env_spec": json.dumps({**spec, **changed})}))
        check_words(in_process("data", "info", "minari:made/pendulum-v0"), said)


def test_a_dataset_that_minari_still_writes(in_process: Run, dataset: Path) -> None:
    with writer("again", dataset / "main_data.hdf5") as process:
        check_words(in_process("data", "info", "minari:made/pendulum-v0"), "is in use: another process has it open")
        process.communicate()
    assert in_process("data", "info", "minari:made/pendulum-v0").returncode == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "there is not enough memory"), (OSError(5, "no"), "cannot be read: Input/output error")],
)
def test_trouble_of_the_machine_is_not_the_files(
    d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """While a file is opened, while its rows are read, and in an archive."""
    path = d4rl_file()
    np.savez(path.with_suffix(".npz"))
    for broken in ("zipfile.ZipFile.__init__", "h5py.Dataset.__getitem__", "h5py.File.__init__"):
        name = path.with_suffix(".npz") if "zip" in broken else path
        with monkeypatch.context() as patch:
            patch.setattr(broken, Mock(side_effect=error))
            with pytest.raises(DataError, match=said):
                format_of(str(name))[0].read(name)
