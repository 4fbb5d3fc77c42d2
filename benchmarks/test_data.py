"""Data: a D4RL file read to transitions, and a batch of 256 of them brought to the device.

Reading is held against D4RL's own way, a Python loop over the rows; a batch, gathered on the device, against one that
is indexed on the host and copied over field by field. Indices are drawn in both. `per second` counts rows.
"""

from __future__ import annotations

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

from dqlab.data.d4rl import read_d4rl
from dqlab.data.rewards import reward_transforms
from dqlab.data.transitions import Transitions, q_learning_view

EPISODE = 1000


@dataclass(frozen=True)
class Case:
    batch: int
    device: str

    @property
    def id(self) -> str:
        return f"B{self.batch}-{self.device}"


def cases(quick: bool) -> list[Case]:
    return [Case(256, device) for device in devices()]


@pytest.fixture
def file(tmp_path: Path, rows: int) -> Path:
    """A file as D4RL's are: float32, episodes of 1000 steps, a fall here and there."""
    fields = made_fields(rows)
    path = tmp_path / "made.hdf5"
    with h5py.File(path, "w") as out:
        for name, field in (("observations", "state"), ("actions", "action"), ("rewards", "reward")):
            out[name] = fields[field]
        out["terminals"] = fields["terminal"] > 0
        out["timeouts"] = np.arange(1, rows + 1) % EPISODE == 0
    return path


def read(path: Path) -> Transitions:
    origin = {"source": "made", "path": str(path), "digest": "", "is_d4rl": False}
    return q_learning_view(read_d4rl(path), EPISODE, reward_transforms.get("none"), origin)


def test_reading(measure: Callable[..., Any], file: Path, rows: int) -> None:
    ours, theirs = read(file), d4rl_transitions(file)
    for name, field in theirs.items():
        np.testing.assert_array_equal(getattr(ours, name).numpy(), field)
    parameters = {"part": "data", "rows": rows, "what": "read"}
    measure(lambda: read(file), lambda: d4rl_transitions(file), parameters, work=rows, warmup=0)


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
