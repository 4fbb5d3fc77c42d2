"""Decision Transformer's pickles: a list of trajectories, each a dict of numpy arrays by D4RL's names."""

from __future__ import annotations

import pickle
import pickletools
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import (
    KNOWN,
    TABLES,
    Columns,
    Format,
    check_claim,
    check_names,
    checked_columns,
    data_formats,
    reading_error,
)
from dqlab.errors import DataError
from dqlab.files import atomic_path

ALLOWED = """
PROTO FRAME STOP MARK POP POP_MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
GLOBAL STACK_GLOBAL
"""
CODES = {opcode.name: opcode.code.encode("latin1")[0] for opcode in pickletools.opcodes}
NAMES = {code: name for name, code in CODES.items()}
LONGEST_CODE = 30
"""Characters of a dtype's code."""
MOST_DIMENSIONS = 32
LARGEST = 1 << 63
"""No size of an array and no key of a dict reaches this; a longer number takes its time whenever it is used."""


class RefusedError(Exception):
    """What a pickle wants beyond values."""


class DType:
    """Stands in for `numpy.dtype` while its pickle is read."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = _text(code)
        if len(text) > LONGEST_CODE:
            raise RefusedError("a dtype with a long name")
        self.value = np.dtype(text)
        if self.value.kind not in "biufcSU" or self.value.subdtype or self.value.names:
            raise RefusedError(f"an array of dtype {self.value}")

    def __setstate__(self, state: Any) -> None:
        """Byte order is all that a dtype of numbers has."""
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise RefusedError("an array of records")
        order: Any = _text(state[1])
        self.value = self.value.newbyteorder(order) if order in "<>=" else self.value


class Array:
    """Stands in for `numpy.ndarray` while its pickle is read."""

    def __init__(self, *_: Any) -> None:
        self.value: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        """The array, out of its version, shape, dtype, order and bytes."""
        *_, shape, dtype, by_columns, data = state
        if isinstance(data, list):
            raise RefusedError("an array of Python objects")
        self.value = _from_bytes(data, dtype, shape, "F" if by_columns else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str = "C") -> NDArray[Any]:
    kind = _dtype(dtype)
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS:
        raise TypeError("an array without a shape")
    if not all(type(size) is int and 0 <= size < LARGEST for size in shape):
        raise TypeError("an array with a size that is none")
    if len(raw) != prod(shape) * kind.itemsize:
        raise ValueError(f"{len(raw)} bytes for shape {shape}")
    return np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.value = _from_bytes(data, dtype, shape, _text(order))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, (1,))[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in protocols that know none."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        raise TypeError("bytes that are not latin1")
    return text.encode("latin1")


def _dtype(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, DType):
        raise TypeError("an array without a dtype")
    return dtype.value


def _key(value: Any) -> Any:
    """What is quickly hashed: in a nested tuple the C stack overflows, or it takes for ever."""
    if type(value) in (str, bytes) or (type(value) is int and abs(value) < LARGEST):
        return value
    raise RefusedError(f"a {type(value).__name__} as a name")


def _text(value: Any) -> str:
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise TypeError(f"a {type(value).__name__} in place of a text")
    return text


STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: OrderedDict(),
    "_codecs.encode": _encode,
    "numpy.ndarray": Array,
    "numpy.dtype": DType,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS |= {
        f"{_core}.multiarray._reconstruct": Array,
        f"{_core}.multiarray.scalar": _scalar,
        f"{_core}.numeric._frombuffer": _frombuffer,
    }


class BoundedFile:
    """A file of which no more is read than there is: a damaged length asks for terabytes.

    Args:
        file: open for reading.
        size: bytes of it.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        """That many bytes."""
        if not 0 <= count <= self._left:
            raise EOFError(f"{count:,} bytes are announced, {self._left:,} are left")
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        """The rest of the line."""
        line = self._file.readline()
        self._left -= len(line)
        return line


PythonsOwn: Any = pickle._Unpickler  # type: ignore[attr-defined]  # in C it does more than a table says


class ValueMachine(PythonsOwn):  # type: ignore[misc]
    """Builds values.

    Args:
        file: the pickle.
        size: bytes of it; texts and bytes that are made into something are counted against that.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(BoundedFile(file, size), encoding="latin1")
        self._budget = 4 * size + (1 << 20)

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """A stand-in, of few."""
        wanted = f"{module}.{name}"
        if wanted not in STAND_INS:
            raise RefusedError(wanted)
        return STAND_INS[wanted]

    def _spend(self, parts: Any) -> None:
        """One text that is made into bytes a million times fills the memory; one long tuple takes as many looks."""
        self._budget -= len(parts) + sum(len(part) for part in parts if isinstance(part, (str, bytes, bytearray)))
        if self._budget < 0:
            raise RefusedError("more memory than its size can stand for")

    def load_reduce(self) -> None:
        """Call a stand-in."""
        arguments = self.stack.pop()
        self._spend(arguments)
        function = self.stack[-1]
        if not any(function is known for known in STAND_INS.values()):
            raise RefusedError(f"a call of {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """Set the state of a stand-in for an array or a dtype."""
        state = self.stack.pop()
        self._spend(state)
        if not isinstance(self.stack[-1], (Array, DType)):
            raise RefusedError(f"to change a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise RefusedError(f"to change a {type(self.stack[-1]).__name__}")
        if len(items) % 2:
            raise ValueError("a name without a value")
        self.stack[-1].update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        """Set one entry of a dict."""
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """Set entries of a dict."""
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        """A dict with its entries."""
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def load_bytearray8(self) -> None:
        """Bytes, none made before they are there."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_inst(self) -> None:
        """An instance of a class, which is named."""
        raise RefusedError(".".join(self.readline()[:-1].decode("latin1") for _ in range(2)))


class OpcodeTable(dict[int, Callable[[Any], None]]):
    """What is done for an opcode."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise RefusedError(f"the opcode {NAMES[code]}") if code in NAMES else ValueError(f"byte {code} is no opcode")


ValueMachine.dispatch = OpcodeTable({CODES[name]: PythonsOwn.dispatch[CODES[name]] for name in ALLOWED.split()})
for _name in ("REDUCE", "BUILD", "SETITEM", "SETITEMS", "DICT", "BYTEARRAY8", "INST"):
    ValueMachine.dispatch[CODES[_name]] = getattr(ValueMachine, f"load_{_name.lower()}")


def _short(error: Exception) -> str:
    """Its first words in one line: what a file says of itself may be endless."""
    return " ".join((str(error) or type(error).__name__)[:200].split())


def unpickle_values(path: Path) -> Any:
    """What a pickle holds: lists, dicts, tuples, texts, numbers, and `Array`s with their values.

    Raises:
        DataError: it wants anything else; the message names it.
        DamagedError: it is damaged, or no pickle.
    """
    try:
        with path.open("rb") as file:
            return ValueMachine(file, path.stat().st_size).load()
    except RefusedError as error:
        raise DataError(
            f"{path} wants {_short(error)}, which a pickle of arrays has no use for. "
            "It is not read; nothing in it was run."
        ) from error
    except Exception as error:
        raise reading_error(str(path), "is truncated or no pickle of arrays", error) from error


Trajectory = dict[str, NDArray[Any]]
NUMBERS = (int, float, np.bool_, np.integer, np.floating)


@data_formats.register(
    "trajectories", source="Chen et al. 2021 (Decision Transformer), its data files", cites=("chen2021decision",)
)
class Trajectories(Format):
    """A pickled list of dicts of arrays, one a trajectory; read without running anything that the pickle names.

    A trajectory that does not end in a terminal state was cut. With `next_observations` every row is kept.
    """

    suffixes = (".pkl", ".pickle")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        """The columns of all trajectories, joined; the whole file is in memory."""
        if not path.is_file():
            raise DataError(f"There is no dataset at {path}. Check the path.")
        found = unpickle_values(path)
        if not isinstance(found, (list, tuple)) or not found:
            raise DataError(f"{path} holds no list of trajectories.")
        trajectories = list(map(_with_end, _trajectories(path, found)))
        names = [name for name in KNOWN if any(name in each for each in trajectories)]
        joined = {name: _joined(str(path), name, trajectories) for name in names}
        yield checked_columns(str(path), joined)

    def write(self, path: Path, columns: Columns) -> None:
        """Write the rows as trajectories; all of them pass through memory."""
        if columns.timeouts is None and columns.next_observations is None:
            raise DataError(f"{columns.where} does not say where episodes were cut, as trajectories must.")
        arrays = {name: column[:] for name in KNOWN if (column := getattr(columns, name)) is not None}
        ends = np.flatnonzero(arrays["terminals"].astype(bool) | arrays.get("timeouts", False)) + 1
        bounds = sorted({0, *ends.tolist(), len(columns)})
        pieces = [{name: array[a:b] for name, array in arrays.items()} for a, b in pairwise(bounds)]
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                pickle.dump(pieces, file, protocol=4)
        except OSError as error:
            raise DataError(f"Cannot write {path}: {error}. Free some space or choose another place.") from error


@dataclass(frozen=True)
class JoinedArrays:
    """Arrays one behind the other, seen as one."""

    parts: list[NDArray[Any]]
    starts: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all together."""
        return (self.starts[-1], *self.parts[0].shape[1:])

    @property
    def dtype(self) -> Any:
        """One that holds all of them."""
        return np.result_type(*{part.dtype for part in self.parts})

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, max(start, stop - 1)) - 1
        parts = self.parts[first : last + 1] or self.parts[:1]
        offset = start - self.starts[first]
        return np.concatenate(parts)[offset : offset + max(0, stop - start)]


def _joined(where: str, name: str, trajectories: list[Trajectory]) -> JoinedArrays:
    lacking = next((place for place, each in enumerate(trajectories) if name not in each), None)
    if lacking is not None:
        raise DataError(f"{where}: trajectory {lacking} has no '{name}', others have.")
    parts = [each[name] for each in trajectories]
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        raise DataError(f"{where}: '{name}' has rows of different shapes: {', '.join(map(str, sorted(widths)))}.")
    return JoinedArrays(parts, [0, *accumulate(len(part) for part in parts)])


def _trajectories(path: Path, found: Sequence[Any]) -> Iterator[Trajectory]:
    """One after the other, none before it is known that they may be so large."""
    claimed, size = 0, path.stat().st_size
    converted: dict[int, NDArray[Any]] = {}
    for place, each in enumerate(found):
        arrays = _trajectory(f"{path}: trajectory {place}", each, converted)
        claimed += sum(array.nbytes for array in arrays.values())
        check_claim(str(path), claimed, size)
        yield arrays


def _trajectory(where: str, found: Any, converted: dict[int, NDArray[Any]]) -> Trajectory:
    """The arrays of one trajectory, all of one length; what is named again is not converted again."""
    if not isinstance(found, dict):
        raise DataError(f"{where} is no dict of arrays.")
    check_names(where, found)
    arrays = {name: _array(f"{where}: '{name}'", name, found[name], converted) for name in KNOWN if name in found}
    rows = len(arrays["observations"])
    for name, array in arrays.items():
        if len(array) != rows:
            raise DataError(f"{where}: '{name}' has {len(array)} rows, 'observations' has {rows}.")
    return arrays


def _with_end(arrays: Trajectory) -> Trajectory:
    """The same, cut at its last row where that is not terminal."""
    terminals = arrays["terminals"].astype(bool)
    timeouts = np.array(arrays["timeouts"] if "timeouts" in arrays else np.zeros_like(terminals), dtype=bool)
    timeouts[-1:] |= ~terminals[-1:]
    return {**arrays, "timeouts": timeouts}


def _array(what: str, name: str, found: Any, converted: dict[int, NDArray[Any]]) -> NDArray[Any]:
    """A column's array."""
    if id(found) not in converted:
        converted[id(found)] = _numbers(what, found)
    array = converted[id(found)]
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} has dtype {array.dtype}, expected numbers.")
    flat = array.reshape(-1) if name not in TABLES and array.shape[1:] == (1,) else array
    if flat.ndim != (2 if name in TABLES else 1):
        raise DataError(f"{what} has shape {array.shape}.")
    return flat


def _numbers(what: str, found: Any) -> NDArray[Any]:
    """An array; or a flat list of numbers: in nested ones, one list may be named a billion times."""
    if isinstance(found, list) and all(isinstance(value, NUMBERS) for value in found):
        return np.asarray(found)
    if isinstance(found, Array):
        return found.value
    raise DataError(f"{what} is no array.")
