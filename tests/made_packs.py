"""Packs of tiny cells of Diffusion-QL, and what is left of them when they have been trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT, SHALLOW, SMALL, TINY
from ray_cluster import until

import dqlab
from dqlab.config import gin_files
from dqlab.runs import train
from dqlab.runs.run import TrainingResult
from dqlab.training import checkpoint

BREAKING = {"DiffusionQL.learning_rate": 1e30, "DiffusionQL.grad_norm": 0.0}


def cell(eta: float, seed: int, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "cell": f"eta={eta}", "points": {"eta": str(eta)}, "set": {"DiffusionQL.eta": eta}, **more}


CELLS = {"cell-a": cell(0.5, 0), "cell-b": cell(2.0, 0), "cell-c": cell(2.0, 3)}
BROKEN = {"cell-a": CELLS["cell-a"], "cell-x": cell(9.0, 0, set=BREAKING), "cell-c": CELLS["cell-c"]}


HOLD = """
import os, time
from dqlab.training.programs import Step
step, _, until = os.environ.get("DQLAB_TESTS_HOLD", "").partition(":")
update = Step.__call__

def hold_and_update(self):
    while step and self.pack.state.step >= int(step) and not os.path.exists(until):
        open(until + ".waits", "w").close()
        time.sleep(0.02)
    update(self)

Step.__call__ = hold_and_update
"""
"""A plugin that holds a run before an update: what is done to it meanwhile never comes too late, however fast it is."""


def write_hold(folder: Path) -> list[str]:
    """Writes the plugin; returns arguments of commands that use it."""
    (folder / "hold.py").write_text(HOLD)
    return ["--plugin", "hold"]


def held(step: int, release: Path) -> dict[str, str]:
    """Variables that hold a run that has done so many updates until a file is there."""
    return {"DQLAB_TESTS_HOLD": f"{step}:{release}"}


def wait_until_held(release: Path) -> None:
    until(Path(f"{release}.waits").exists, 240)


UNDRAWN = """
import sys
if "--report-only" in sys.argv:
    from matplotlib.figure import Figure
    Figure.savefig = lambda figure, file, **options: file.write(b"<svg></svg>")
"""
"""A plugin by which the process that makes a grid's report saves no figure, for tests that look at something else."""


def write_undrawn(folder: Path) -> list[str]:
    """Writes the plugin; returns arguments of commands that use it."""
    (folder / "undrawn.py").write_text(UNDRAWN)
    return ["--plugin", "undrawn"]


def pack_text(replicas: dict[str, Any], *bindings: str, steps: int = 60) -> str:
    """A gin text; later bindings override."""
    lines = [f"include '{ROOT / 'gin' / 'quickstart.gin'}'", *TINY, f"Training.steps={steps}", *bindings]
    return "\n".join([*lines, f"Experiment.replicas = {replicas!r}", ""])


def run_pack(folder: Path, replicas: dict[str, Any], *bindings: str, **options: Any) -> TrainingResult:
    gin = folder.parent / f"{folder.name}.gin"
    gin.write_text(pack_text(replicas, *bindings))
    return train(gin_files.load_gin([gin]), folder, quiet=True, **options)


def small_run(folder: Path, *lines: str) -> dqlab.Run:
    """Four updates of an algorithm with small networks, and one evaluation of one episode."""
    few = [line for line in TINY if not line.startswith(("MLP", "Twin", "SoftmaxQ", "Training.eval"))]
    few += [*SMALL, *SHALLOW, "Training.eval_every = 4", "Training.eval_episodes = 1"]
    (folder / "small.gin").write_text("\n".join(["include 'gin/quickstart.gin'", *few, *lines]))
    return dqlab.train(folder / "small.gin", steps=4, out=folder / "run", quiet=True)


def summary(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / name / "summary.json").read_text())  # type: ignore[no-any-return]


def records(run: Path, name: str) -> list[Any]:
    """A replica's journal, without what a clock says."""
    lines = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
    clock = "train/updates_per_second"
    return [(line["step"], {key: value for key, value in line["metrics"].items() if key != clock}) for line in lines]


def check_same(run: Path, name: str, other: Path, other_name: str = "") -> None:
    """Scores, losses and weights are equal to the last bit; places in a grid may differ."""
    other_name = other_name or name
    assert {**summary(run, name), "points": {}} == {**summary(other, other_name), "points": {}}
    assert records(run, name) == records(other, other_name)
    ours, theirs = (sorted(each.glob("checkpoints/*")) for each in (run / name, other / other_name))
    assert [path.name for path in ours] == [path.name for path in theirs] != []
    for pair in zip(ours, theirs, strict=True):
        check_same_checkpoint(*pair)


def check_same_checkpoint(one: Path, other: Path) -> None:
    """Tensors are equal to the last bit, and so is what is recorded beside them, but for the name of a replica."""
    (tensors, record), (wanted, known) = (checkpoint.read_checkpoint(path) for path in (one, other))
    assert {**record, "replica": ""} == {**known, "replica": ""}
    torch.testing.assert_close(tensors, wanted, rtol=0, atol=0)
