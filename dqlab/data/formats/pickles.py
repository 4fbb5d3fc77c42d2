"""Pickles of plain values and numpy arrays, read without running anything that they name.

A pickle is a program. Python's own reader of it, `pickle._Unpickler`, the one that is written in Python, goes through a
table of what is done for each opcode: here the table has few, each safe. It is the only private name that is used; the
reader in C has no such table, and calls whatever `find_class` gives. `tests/data/test_formats.py` reads pickles of all
protocols and sees programs refused.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.errors import reading_error
from dqlab.errors import DataError


def unpickle_values(path: Path) -> Any:
    """What a pickle holds: lists, dicts, tuples, texts, numbers, and `PickledArray`s with their values.

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


def _short(error: Exception) -> str:
    """An error's first words in one line: what a file says of itself may be endless."""
    return " ".join((str(error) or type(error).__name__)[:200].split())


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


class PickledDType:
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


class PickledArray:
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


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
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
    if not isinstance(dtype, PickledDType):
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
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledDType,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS |= {
        f"{_core}.multiarray._reconstruct": PickledArray,
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
        if not isinstance(self.stack[-1], (PickledArray, PickledDType)):
            raise RefusedError(f"to change a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise RefusedError(f"to change a {type(self.stack[-1]).__name__}")
        if len(items) % 2:
            raise ValueError("a name without a value")
        self.stack[-1].update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
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
