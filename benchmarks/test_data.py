"""Data: a D4RL file read to transitions, and a batch of 256 of them brought to the device.

Reading is held against D4RL's own way, a Python loop over the rows; a batch, gathered on the device, against one that
is indexed on the host and copied over field by field. Indices are drawn in both. `per second` counts rows.
`memory_ratio` is what reading adds to a process's memory at its peak, over the bytes of the transitions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from baseline import HostData, d4rl_transitions
from subjects import as_transitions, devices, made_fields, synchronizer

from dqlab.data import Transitions
from dqlab.data.formats.arrays import D4RL
from dqlab.data.rewards import reward_transforms
from dqlab.data.transitions import q_learning_view

EPISODE = 1000
STORED: dict[str, dict[str, Any]] = {"plain": {}, "chunks": {"chunks": True}, "gzip": {"compression": "gzip"}}
PEAK = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import h5py
from test_data import read
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
fields = read(Path(sys.argv[2])).fields
print((status("VmHWM") - before) / sum(field.nbytes for field in fields if field is not None))
"""


@dataclass(frozen=True)
class Case:
    batch: int
    device: str

    @property
    def id(self) -> str:
        return f"B{self.batch}-{self.device}"


def cases(quick: bool) -> list[Case]:
    return [Case(256, device) for device in devices()]


def made_file(path: Path, rows: int, stored: str) -> Path:
    """A file as D4RL's are: float32, episodes of 1000 steps, a fall here and there."""
    fields = made_fields(rows)
    arrays = {
        name: fields[field] for name, field in (("observations", "state"), ("actions", "action"), ("rewards", "reward"))
    }
    ends = {"terminals": fields["terminal"] > 0, "timeouts": np.arange(1, rows + 1) % EPISODE == 0}
    with h5py.File(path, "w") as out:
        for name, array in {**arrays, **ends}.items():
            out.create_dataset(name, data=array, **STORED[stored])
    return path


def read(path: Path) -> Transitions:
    origin = {"source": "made", "path": str(path), "digest": "", "is_d4rl": False}
    return q_learning_view(D4RL().read(path), EPISODE, reward_transforms.get("none"), origin)


def memory_ratio(path: Path) -> float:
    """In a process of its own, so that nothing else counts."""
    command = [sys.executable, "-c", PEAK, str(Path(__file__).parent), str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("stored", STORED)
def test_reading(measure: Callable[..., Any], benchmark: Any, tmp_path: Path, rows: int, stored: str) -> None:
    file = made_file(tmp_path / "made.hdf5", rows, stored)
    ours, theirs = read(file), d4rl_transitions(file)
    for name, field in theirs.items():
        np.testing.assert_array_equal(getattr(ours, name).numpy(), field)
    parameters = {"part": "data", "rows": rows, "what": "read", "stored": stored}
    measure(lambda: read(file), lambda: d4rl_transitions(file), parameters, work=rows, warmup=0)
    benchmark.extra_info["memory_ratio"] = memory_ratio(file)


def test_batch(measure: Callable[..., Any], case: Case, rows: int) -> None:
    fields = made_fields(rows)
    data, on_host = as_transitions(fields).to(case.device, torch.float32), HostData(fields, case.device)

    def gathered() -> object:
        return data.batch(torch.randint(0, rows, (1, case.batch), device=case.device))

    measure(
        gathered,
        lambda: on_host.sample(case.batch),
        parameters={"part": "data", "rows": rows, "what": "batch", **asdict(case)},
        work=case.batch,
        synchronize=synchronizer(case.device),
    )
