"""Made-up grids as the folders that a driver and its workers write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_grids import made_result

from dqlab.analysis.results import Cell, CellStatus, GridResults
from dqlab.tracking.run_folder import Journal

START = 1_760_000_000.0
GIN = """import dqlab.runs.experiment

# Parameters for DiffusionPolicy:
# ==============================================================================
DiffusionPolicy.n_timesteps = {steps}

# Parameters for Experiment:
# ==============================================================================
Experiment.algorithm = 'diffusion_ql'
Experiment.cell = '{label}'
Experiment.physics = 'mujoco210'
Experiment.replicas = {{}}
Experiment.seeds = \\
    ({seed},)
Experiment.task = '{task}'

# Parameters for Training:
# ==============================================================================
Training.steps = 5000
"""


def write_grid(folder: Path, grid: GridResults, records: int = 5, state: str = "finished", curve: bytes = b"") -> Path:
    """Writes the folder of a grid with one pack for each setting and task; `records` journal lines for each cell."""
    cells = [status.cell for status in (*grid.results, *grid.failures, *grid.pending)]
    packs: dict[str, list[Cell]] = {}
    for cell in cells:
        packs.setdefault(pack_of(grid, cell), []).append(cell)
    for name, members in packs.items():
        write_pack(folder / "packs" / name, members)
    for result in grid.results:
        begin_cell(folder, grid, result.cell, records)
        finish_cell(folder, grid, result, curve)
    for failure in grid.failures:
        begin_cell(folder, grid, failure.cell, 1)
        fail_cell(folder, grid, failure)
    facts = {"name": grid.name, "axes": {name: list(points) for name, points in grid.axes.items()}}
    facts |= {"labels": grid.labels, "base": grid.base, "tasks": grid.tasks, "seeds": grid.seeds, "gin": grid.gin}
    facts |= {"mlflow_experiment": grid.name, "packs": list(packs), "cells": len(cells)}
    write_state(folder, **facts, finished=len(grid.results), failed=len(grid.failures), state=state)
    return folder


def write_reusing(folder: Path, grid: GridResults, other: Path, reused: Sequence[Cell]) -> Path:
    """A grid that takes some of its cells from another grid's folder, which has all of them."""
    results = tuple(result for result in grid.results if result.cell not in reused)
    write_grid(folder, replace(grid, results=results))
    (folder / "plan.json").write_text(json.dumps({"cells": [r.cell.as_dict() for r in grid.results], "packs": {}}))
    elsewhere = {cell.id: str(folder_of(other, grid, cell)) for cell in reused}
    write_state(folder, cells=len(grid.results), finished=len(grid.results), elsewhere=elsewhere)
    return folder


def write_state(folder: Path, **facts: Any) -> None:
    """Add to grid.json."""
    path = folder / "grid.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **facts}))


def pack_of(grid: GridResults, cell: Cell) -> str:
    return f"{grid.labels.index(cell.label):04x}{grid.tasks.index(cell.task):04x}"


def folder_of(folder: Path, grid: GridResults, cell: Cell) -> Path:
    return folder / "packs" / pack_of(grid, cell) / cell.replica


def write_pack(pack: Path, cells: Sequence[Cell], **changes: Any) -> None:
    replicas = {
        cell.replica: {"seed": cell.seed, "cell": cell.label, "points": dict(cell.points), "set": {}} for cell in cells
    }
    data = {"source": "embedded", "digest": f"digest of {cells[0].task}", "is_d4rl": False}
    facts = {"task": cells[0].task, "algorithm": "diffusion_ql", "physics": "mujoco210", "device": "cpu"}
    facts |= {"device_name": "a processor", "execution": "eager", "git_commit": "abc", "caveat": "not D4RL"}
    facts |= {
        "seeds": sorted({cell.seed for cell in cells}),
        "data": data,
        "versions": {"dqlab": "0.1.0", "torch": "2.13.0"},
        "variants": {"lr_schedule": "cosine"},
    }
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "run.json").write_text(json.dumps({**facts, "replicas": replicas, "state": "running", **changes}))


def write_run(run: Path, seeds: Sequence[int] = (0,), state: str = "finished") -> Path:
    """Writes the folder of a plain run, with a journal, a summary and made-up weights of every seed."""
    write_pack(run, [Cell("", task="walker2d-medium-expert-v2", seed=seed) for seed in seeds], replicas={}, state=state)
    (run / "config.gin").write_text(GIN.format(steps=5, label="", seed=seeds[0], task="walker2d-medium-expert-v2"))
    for seed in seeds:
        cell = Cell("", points={"N": "5"}, task="walker2d-medium-expert-v2", seed=seed)
        own = run / f"seed-{seed}"
        (own / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_journal(own, cell, 5)
        (own / "summary.json").write_text(json.dumps(dict(made_result(cell, 50.0 + seed).summary)))
        (own / "curve.png").write_bytes(b"a curve")
        (own / "checkpoints" / "step-000005000.safetensors").write_bytes(b"weights")
    return run


def begin_cell(folder: Path, grid: GridResults, cell: Cell, records: int) -> None:
    """Its configuration, and a journal that a made-up training would write."""
    path = folder_of(folder, grid, cell)
    path.mkdir(parents=True, exist_ok=True)
    steps = cell.points["N"]
    (path / "config.gin").write_text(GIN.format(steps=steps, label=cell.label, seed=cell.seed, task=cell.task))
    write_journal(path, cell, records)


def write_journal(path: Path, cell: Cell, records: int) -> None:
    journal = Journal(path / "metrics.jsonl")
    for index in range(1, records + 1):
        journal.append({"step": 1000 * index, "time": START + 10.0 * index, "metrics": metrics(cell, index)})


def metrics(cell: Cell, index: int) -> Mapping[str, float]:
    level = float(cell.points["N"]) + 0.1 * cell.seed
    losses = {f"train/{name}": level / index for name in ("actor/bc_loss", "actor/q_loss", "critic/loss")}
    return {**losses, "eval/score_mean": level * index, "eval/score_std": 4.0}


def finish_cell(folder: Path, grid: GridResults, result: CellStatus, curve: bytes = b"") -> None:
    path = folder_of(folder, grid, result.cell)
    (path / "failure.json").unlink(missing_ok=True)
    (path / "curve.png").write_bytes(curve or b"a curve")
    (path / "summary.json").write_text(json.dumps(dict(result.summary)))


def fail_cell(folder: Path, grid: GridResults, failure: CellStatus) -> None:
    reason = {"kind": failure.failure, "reason": failure.reason, "step": 1234}
    (folder_of(folder, grid, failure.cell) / "failure.json").write_text(json.dumps(reason))
