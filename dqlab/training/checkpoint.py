"""Checkpoints: safetensors files, written whole or not at all, with a digest, read without running code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from dqlab.errors import RunError
from dqlab.files import atomic_path, check_ordinary

Groups = dict[str, dict[str, Tensor]]
Record = TypeVar("Record")


def write_checkpoint(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, Any]) -> None:
    """Write groups of named tensors and a JSON-able record into one file; a RunError where the disk is full or the
    folder cannot be written: an earlier file of that name is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {f"{group}|{name}": value for group, named in tensors.items() for name, value in named.items()}
    flat = {key: value.detach().cpu().contiguous() for key, value in whole.items()}
    # one entry: safetensors writes several in any order, and equal checkpoints are to be equal files
    text = json.dumps({**record, "sha256": weights_digest(flat, record)})
    try:
        with atomic_path(path) as temporary:
            save_file(flat, temporary, metadata={"dqlab": text})
    except (OSError, SafetensorError) as error:
        raise RunError(f"Cannot write {path}: {error}. Free some space; --resume continues the run.") from error


def read_checkpoint(path: Path, kind: type[Record] = dict[str, Any]) -> tuple[Groups, Record]:  # type: ignore[assignment]
    """Groups of named tensors (on the CPU), and the record, of a kind, of `write_checkpoint`; a RunError where the file
    is missing, damaged (a single bit shows), no dqlab checkpoint, or its record of another kind.
    """
    from safetensors import SafetensorError, safe_open

    from dqlab.tracking.records import in_short, parse_record

    try:
        check_ordinary(path)
        with safe_open(path, framework="pt") as file:
            record = parse_record((file.metadata() or {})["dqlab"], kind)
            written = cast(dict[str, Any], record).pop("sha256", None)  # earlier versions wrote none
            # copies: a file's tensors begin anywhere, and on some CPUs a product's last bits depend on where they begin
            flat = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"There is no checkpoint {path}.") from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(f"{path} is not a dqlab checkpoint, or is damaged ({in_short(error)}).") from error
    if written not in (None, weights_digest(flat, cast(dict[str, Any], record))):
        raise RunError(
            f"{path} is damaged: its content is not what was written (SHA-256). Take it from a copy; without one, "
            "choose another --out and train again."
        )
    groups: Groups = {}
    for key, value in flat.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = value
    return groups, record


def weights_digest(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """SHA-256 of contiguous tensors on the CPU, by name, type and shape, and of a record as JSON."""
    digest = hashlib.sha256(json.dumps(record).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.as_strided((value.numel(),), (1,)).view(torch.uint8).numpy().data)
    return digest.hexdigest()
