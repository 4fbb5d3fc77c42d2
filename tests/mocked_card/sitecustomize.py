"""With this folder on PYTHONPATH, a process and its children see a CUDA card that has no memory.

PyTorch's own code decides as on a machine with a card (`set_device` and `torch.device` are the real ones); what would
ask the driver is answered here, and the first tensor that is wanted on the card is refused, as a full card refuses it.
$MOCKED_CARDS says how many there are, $MOCKED_LOG names a file that gets a line for each refusal and device set.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

GIB = 2**30


def _log(what: str) -> None:
    with open(os.environ["MOCKED_LOG"], "a") as file:
        file.write(what + "\n")


def _refuse() -> None:
    import torch

    frames = [frame for frame in traceback.extract_stack() if "/dqlab/" in frame.filename]
    where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.name}" for frame in reversed(frames[-4:]))
    _log(f"memory asked for by {' '.join(sys.argv[:3])} in {where}")
    raise torch.OutOfMemoryError("CUDA out of memory: this card has none.")


def _mock(cuda: ModuleType) -> None:
    import torch

    def answer(value: Any) -> Any:
        return lambda *args, **kwargs: value

    count = int(os.environ["MOCKED_CARDS"])
    properties = SimpleNamespace(name="a card", major=9, minor=0, total_memory=80 * GIB, multi_processor_count=132)
    answers = {
        "is_available": True,
        "device_count": count,
        "current_device": 0,
        "get_device_name": "a card",
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "mem_get_info": (79 * GIB, 80 * GIB),
        "is_initialized": False,
    }
    for name, value in answers.items():
        setattr(cuda, name, answer(value))
    cuda._lazy_init = _refuse
    torch._C._cuda_setDevice = lambda index: _log(f"set_device {index}")


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _mock(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "torch.cuda":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
