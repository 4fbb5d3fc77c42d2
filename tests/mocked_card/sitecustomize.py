"""With this folder on PYTHONPATH, a process and its children see a CUDA card that has no memory.

PyTorch's own code decides as on a machine with a card (`set_device` and `torch.device` are the real ones); what would
ask the driver is answered here, and the first tensor that is wanted on the card is refused, as a full card refuses it.
$MOCKED_CARDS says how many there are, $MOCKED_LOG names a file that gets a line for each refusal and device set.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import SimpleNamespace
from typing import Any

import torch

GIB = 2**30


def _log(what: str) -> None:
    with open(os.environ["MOCKED_LOG"], "a") as file:
        file.write(what + "\n")


def _refuse() -> None:
    frames = [frame for frame in traceback.extract_stack() if "/dqlab/" in frame.filename]
    where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.name}" for frame in reversed(frames[-4:]))
    _log(f"memory asked for by {' '.join(sys.argv[:3])} in {where}")
    raise torch.OutOfMemoryError("CUDA out of memory: this card has none.")


def _answer(value: Any) -> Any:
    return lambda *args, **kwargs: value


ANSWERS = {
    "is_available": True,
    "device_count": int(os.environ["MOCKED_CARDS"]),
    "current_device": 0,
    "get_device_name": "a card",
    "get_device_capability": (9, 0),
    "get_device_properties": SimpleNamespace(
        name="a card", major=9, minor=0, total_memory=80 * GIB, multi_processor_count=132
    ),
    "mem_get_info": (79 * GIB, 80 * GIB),
    "is_initialized": False,
}
for name, value in ANSWERS.items():
    setattr(torch.cuda, name, _answer(value))
torch.cuda._lazy_init = _refuse
torch._C._cuda_setDevice = lambda index: _log(f"set_device {index}")
