"""Every format of datasets: what goes in comes out, and damaged files are one clear DataError."""

from __future__ import annotations

import os
import pickle
import random
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dqlab.data import data_formats
from dqlab.data.formats.base import Columns, format_of
from dqlab.data.rewards import as_is
from dqlab.data.transitions import q_learning_view
from dqlab.errors import DataError

N = 40


def arrays(next_known: bool = False, **changes: Any) -> dict[str, Any]:
    """Columns by name; changes replace them, or (None) drop them."""
    rng = np.random.default_rng(1)
    states = rng.normal(size=(N + 1, 3)).astype(np.float32)
    made = {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, (N, 2)).astype(np.float32),
        "rewards": rng.normal(size=N),
        "terminals": np.arange(N) % 10 == 9,
        "timeouts": np.arange(N) % 10 == 4,
    }
    made |= {"next_observations": states[1:] + 0.5, "masks": np.arange(N) % 8 != 3} if next_known else {}
    return {name: array for name, array in (made | changes).items() if array is not None}


def written(folder: Path, name: str, **notes: str) -> Path:
    chosen = data_formats.get(name)()
    path = folder / f"set{chosen.suffixes[0]}"
    chosen.write(path, Columns(**arrays(), metadata=notes))
    return path


def make_hdf5(path: Path, **made: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, array in made.items():
            file[name] = array


def read(path: Path) -> dict[str, Any]:
    """Everything that is read of a dataset, with all checks."""
    chosen, place = format_of(str(path))
    origin = {"source": "test", "path": "", "digest": "", "is_d4rl": False}
    data = q_learning_view(chosen.read(place), 1000, as_is, origin).fields
    return {name: field.numpy() for name, field in data._asdict().items() if field is not None}


def test_notes_of_others_are_no_damage(tmp_path: Path) -> None:
    for notes in ("mine", {"a": 1}, ["a", "b"], ["mine"], ["[" * 100_000], 3.0):
        np.savez(tmp_path / "set.npz", **arrays(), metadata=notes)
        found = format_of("a.npz")[0].read(tmp_path / "set.npz")
        assert (dict(found.metadata), len(found)) == ({}, N)


def test_a_damaged_heap_of_texts_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space of size 0 behind a text: HDF5's library looks for the next one without end."""
    path = tmp_path / "set.hdf5"
    make_hdf5(path, **arrays(), **{"metadata/about": "a test", "metadata/steps": 3})
    assert format_of(str(path))[0].read(path).metadata == {"about": "a test", "steps": "3"}
    raw = bytearray(path.read_bytes())
    free = raw.index(b"GCOL") + 16 + 16 + 8  # behind the heap's head, the text's, and the text
    raw[free + 8 : free + 16] = bytes(8)
    path.write_bytes(bytes(raw))
    monkeypatch.setattr("dqlab.data.formats.base.LEAST_SECONDS", 2)
    with pytest.raises(DataError, match="set.hdf5 is damaged: a process that read it ended by SIGXCPU"):
        read(path)


def test_notes_that_hdf5_cannot_keep(tmp_path: Path) -> None:
    for notes in ({"a": "x\0y"}, {"a\0b": "x"}, {"": "x"}, {"a": "x", "a/b": "y"}, {"a/b": "x", "a": "y"}):
        with pytest.raises(
            DataError, match=r"Cannot write .*set.hdf5: HDF5 cannot keep the metadata '.*leave them out"
        ):
            written(tmp_path, "d4rl", **notes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["d4rl", "npz"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    """A file size limit stands for the disk: the writer gets an error at the same place."""
    noise, flag = np.random.default_rng(0).normal(size=(20_000, 3)), np.zeros(20_000, bool)
    rows = Columns(noise, noise, noise[:, 0], flag, flag)
    path = written(tmp_path, name)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DataError, match="Cannot write"):
            data_formats.get(name)().write(path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_formats_are_chosen_by_name_or_suffix() -> None:
    assert format_of("d4rl:some/set")[1] == Path("some/set")
    assert [type(format_of(f"a{suffix}")[0]).__name__ for suffix in (".H5", ".npz")] == ["D4RL", "Npz"]


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    made = arrays(next_known=True, timeouts=None)
    pieces = [{name: array[a : a + 8] for name, array in made.items()} for a in range(0, N, 8)]
    (tmp_path / "set.pkl").write_bytes(pickle.dumps(pieces, protocol=protocol))
    found = format_of("a.pkl")[0].read(tmp_path / "set.pkl")
    np.testing.assert_array_equal(found.observations[3:21], made["observations"][3:21])
    np.testing.assert_array_equal(found.timeouts, (np.arange(N) % 8 == 7) & ~made["terminals"])
    if protocol == 2:  # with the names of numpy 1
        raw = pickle.dumps([arrays()], protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (tmp_path / "set.pkl").write_bytes(raw)
        assert len(read(tmp_path / "set.pkl")["state"])


PICKLES = {
    "set.pkl wants posix.system, which": b"cposix\nsystem\n(S'touch pwned'\ntR.",
    "set.pkl wants not enough memory.x, which": b"cnot enough memory\nx\n.",  # which is no trouble of the machine's
    "wants numpy.matrix.view": b"\x80\x04\x8c\x05numpy\x8c\x0bmatrix.view\x93.",
    "wants a.na.na": b"\x80\x04X\x00\x10\x00\x00" + b"a\n" * 2048 + b"\x8c\x01b\x93.",
    "is truncated or no pickle of arrays .*persistent": b"Pid\n.",
    "no pickle of arrays .object": b"cnumpy\nndarray\n(I1\ncnumpy\ndtype\n(S'O'\ntRC\x08" + bytes(8) + b"tR.",
    "no pickle of arrays .cannot reshape": pickle.dumps(np.zeros(3)).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
    "'rewards' is no array": pickle.dumps([arrays(rewards=[np.str_("a"), *range(N - 1)])]),
    "no list of trajectories": pickle.dumps(3),
    "trajectory 0 is no dict": pickle.dumps([3]),
    "'rewards' has 3 rows": pickle.dumps([arrays(rewards=np.zeros(3))]),
    "rows of different shapes": pickle.dumps([arrays(), arrays(actions=np.zeros((N, 3)))]),
    "trajectory 0 has no 'next_observations'": pickle.dumps([arrays(), arrays(True)]),
}


@pytest.mark.parametrize("message", PICKLES)
def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set.pkl").write_bytes(PICKLES[message])
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "set.pkl")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not Path("pwned").exists()


WRONG = {
    "has no 'rewards'": arrays(rewards=None),
    r"dtype \|S1": arrays(rewards=np.array([b"x"] * N)),
    "dtype complex128": arrays(rewards=np.zeros(N, complex)),
    r"shape \(\)|no array": arrays(terminals=np.array(1.0)),
    r"shape \(40, 2, 2\)": arrays(actions=np.zeros((N, 2, 2))),
    r"shape \(40,\), expected \(rows, width\)": arrays(observations=np.zeros(N)),
    r"shape \(40, 0\)": arrays(actions=np.zeros((N, 0))),
    "'actions' has 39 rows": arrays(actions=np.zeros((N - 1, 2))),
    r"1 row\(s\)": {name: array[:1] for name, array in arrays().items()},
    "'observations' .* row 7": arrays(observations=np.where(np.arange(N) == 7, np.nan, 1.0)[:, None]),
    "'rewards' .* row 9": arrays(rewards=np.where(np.arange(N) == 9, 1e300, 1.0)),  # too large for float32
    "'timeouts' .* row 3": arrays(timeouts=np.where(np.arange(N) == 3, np.nan, 0.0)),
    "no transition": arrays(timeouts=np.ones(N)),
}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, suffix: str, message: str) -> None:
    store = np.savez if suffix == ".npz" else make_hdf5
    store(tmp_path / f"set{suffix}", **WRONG[message])
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / f"set{suffix}")
    assert "\n" not in str(caught.value)


def test_columns_of_width_one_are_fine(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays(rewards=np.ones((N, 1)), terminals=np.zeros((N, 1))))
    rows = format_of("a.npz")[0].read(tmp_path / "set.npz")
    assert rows.rewards.shape == rows.terminals.shape == (N,)


def virtual_column() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((N,), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (N,))
    return layout


TRICKS: dict[str, Callable[[Any], object]] = {
    "group": lambda file: file.create_group("rewards"),
    "soft link": lambda file: file.update({"rewards": h5py.SoftLink("/terminals")}),
    "raw data outside": lambda file: file.create_dataset("rewards", (N,), "f4", external=[("/etc/passwd", 0, 4 * N)]),
    "virtual": lambda file: file.create_virtual_dataset("rewards", virtual_column()),
    "texts of any length": lambda file: file.update({"rewards": ["1.0"] * N}),
    "null": lambda file: file.update({"rewards": h5py.Empty("f4")}),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_columns_that_are_not_what_they_seem(tmp_path: Path, trick: str) -> None:
    path = tmp_path / "set.hdf5"
    make_hdf5(path, **arrays(rewards=None))
    with h5py.File(path, "a") as file:
        TRICKS[trick](file)
    with pytest.raises(DataError, match="'rewards' is no array of numbers that lies in this file"):
        read(path)


def test_more_rows_than_there_is_memory_for(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in arrays().items():
            file.create_dataset(name, (10**12, *array.shape[1:]), "f4", chunks=True)
    with pytest.raises(DataError, match="cannot be read: there is not enough memory for what it claims to hold"):
        read(path)


def test_a_chunk_that_unpacks_to_more_than_its_shape_says(tmp_path: Path) -> None:
    """1.3 GB of zeros as a chunk of 200 bytes: what reads it takes no more memory for that."""
    path = tmp_path / "set.hdf5"
    make_hdf5(path, **arrays(rewards=None))
    packer, zeros = zlib.compressobj(9), bytes(1 << 24)
    first, more = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    check = struct.pack(">I", (80 * len(zeros) % 65521) << 16 | 1)  # Adler-32 of them all
    packed = first + 79 * more + packer.flush()[:-4] + check
    with h5py.File(path, "a") as file:
        kept = file.create_dataset("rewards", (N,), "f4", chunks=(N,), compression="gzip")
        kept.id.write_direct_chunk((0,), packed)
    with pytest.raises(DataError, match="truncated or not an HDF5 file"):
        read(path)


def test_archives_that_are_not_what_they_seem(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    for rows, size, said in (
        (10**12, 100, "not enough memory for what it claims to hold .*3.64 TiB"),
        (N, 100, "no .npz archive of numbers"),
        (N, 4 * N + 4, r"'rewards.npy' has more bytes than its shape \(40,\)"),
    ):
        np.savez(path, **arrays(rewards=None))
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("rewards.npy", "w") as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows,)}
            np.lib.format.write_array_header_1_0(member, header)
            member.write(bytes(size))
        with pytest.raises(DataError, match=said):
            read(path)
    np.savez(path, **arrays(rewards=np.array([Path()] * N)))
    with pytest.raises(DataError, match="of numbers .Object arrays cannot be loaded"):
        read(path)
    np.savez(path, **arrays(observations=np.asfortranarray(arrays()["observations"])))
    np.testing.assert_array_equal(read(path)["state"], arrays()["observations"][~arrays()["timeouts"]][:-1])


@pytest.mark.parametrize("kind", ["d4rl", "npz", "trajectories", "chunks"])
def test_damaged_bytes_are_refused_or_read(tmp_path: Path, kind: str) -> None:
    """Any other error fails the test; `DQLAB_FUZZ=20000` asks for that many cases of each kind."""
    path, refused, cases = tmp_path / "set.hdf5", 0, int(os.environ.get("DQLAB_FUZZ", "40"))
    if kind == "chunks":
        with h5py.File(path, "w") as file:
            for name, array in arrays().items():
                file.create_dataset(name, data=array, chunks=(4, *array.shape[1:]), compression="gzip", fletcher32=True)
    elif kind == "trajectories":
        path = tmp_path / "set.pkl"
        path.write_bytes(pickle.dumps([arrays(next_known=True)]))
    else:
        path = written(tmp_path, kind, about="a test")
    sound = path.read_bytes()
    for seed in range(cases):
        raw, rng = bytearray(sound), random.Random(seed)
        for _ in range(rng.choice([1, 2, 4])):
            raw[rng.randrange(len(raw))] = rng.choice([0, 127, 255, rng.randrange(256)])
        path.write_bytes(bytes(raw[: rng.randrange(len(raw))] if seed % 2 else raw))
        try:
            read(path)
        except DataError:
            refused += 1
    assert refused > 0.49 * cases  # every one that was cut
