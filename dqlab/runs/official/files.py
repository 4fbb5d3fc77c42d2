"""Reading a file of `torch.save`: nothing in it is run, and its size is known before memory is taken for it."""

from __future__ import annotations

import pickletools
import re
import reprlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqlab.errors import RunError

LARGEST = 1 << 28
"""Bytes that a file may unpack to; those of the official code have less than a million."""
DEEPEST = 3
"""Mappings inside of each other that are looked into."""
PLAIN = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(?:tensor_v2|parameter)|torch [A-Za-z0-9]+Storage")
"""What a state dict is made of, as a pickle names it."""
_words = reprlib.Repr()
_words.maxstring = 80
shown = _words.repr
"""A name out of a file, as it may be printed: in quotes, of bounded length, without control characters."""


def state_dicts(path: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors in the file, and the names under which it lies there; empty for the outermost.

    Raises:
        RunError: the file is missing, damaged, too large, or holds anything but tensors, numbers, names and containers.
    """
    found = list(_walk(_read(path), "", DEEPEST, set()))
    if not found:
        raise RunError(f"{path} holds no state dict (names of weights, each with its tensor).")
    return iter(found)


def _walk(value: Any, where: str, deeper: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(value, Mapping) or id(value) in seen or not deeper:
        return
    seen.add(id(value))
    tensors = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
    if tensors:
        yield where, tensors
    for name, item in value.items():
        yield from _walk(item, f"{where}[{shown(name)}]", deeper - 1, seen)


def _read(path: Path) -> Any:
    try:
        _check_contents(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: an official checkpoint has an actor and a critic file.") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch and zipfile raise many kinds for a damaged file
        raise RunError(
            f"{path} is damaged, or no state dict that torch.save has written ({type(error).__name__}). Copy it anew."
        ) from error


def _check_contents(path: Path) -> None:
    """Look at the archive's list of contents, and at what its pickle names, before any of it is built."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise RunError(f"{path} unpacks to {size:,} bytes: too much for an official checkpoint.")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is not what its checksum says")
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        named = [name for pickle in pickles for name in _named(archive.read(pickle))]
    foreign = [name for name in named if not PLAIN.fullmatch(name)]
    if foreign:
        what = shown(foreign[0].replace(" ", "."))
        raise RunError(f"{path} is not a plain state dict: it wants {what} of Python, and nothing in a file is run.")


def _named(pickle: bytes) -> Iterator[str]:
    """The functions and classes that a pickle names."""
    for code, argument, _ in pickletools.genops(pickle):
        if code.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            yield str(argument)


Weights = dict[str, Tensor]
Rules = list[tuple[re.Pattern[str], str]]
# official name -> dqlab name; the official time_mlp counts the sinusoidal embedding as layer 0
ACTOR_NAMES: Rules = [
    (re.compile(r"^(?:model\.)?time_mlp\.1\."), "time_mlp.0."),
    (re.compile(r"^(?:model\.)?time_mlp\.3\."), "time_mlp.2."),
    (re.compile(r"^(?:model\.)?(mid_layer\.\d+|final_layer)\."), r"\1."),
]
CRITIC_NAMES: Rules = [
    (re.compile(r"^q1_model\."), "members.0.layers."),
    (re.compile(r"^q2_model\."), "members.1.layers."),
]
WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod)\.")
"""What DataParallel and torch.compile put before the names of what they wrap."""


def strip_wrappers(name: str) -> str:
    """A name without what wrappers put before it."""
    return WRAPPERS.sub("", name)


def renamed(name: str, rules: Rules) -> str:
    """dqlab's name of an official weight; empty where no rule matches."""
    return next((pattern.sub(new, name) for pattern, new in rules if pattern.match(name)), "")


def _rename(values: Mapping[str, Tensor], rules: Rules) -> Weights:
    """Translate the names that a rule matches; other entries (schedule buffers) are dropped."""
    return {renamed(name, rules): value for name, value in values.items() if renamed(name, rules)}


def actor_weights(official: Mapping[str, Tensor]) -> Weights:
    """An official actor's state dict under the parameter names of `MLPDenoiser`."""
    return _rename(official, ACTOR_NAMES)


def critic_weights(official: Mapping[str, Tensor]) -> Weights:
    """An official critic's state dict under the parameter names of `TwinCritic`."""
    return _rename(official, CRITIC_NAMES)
