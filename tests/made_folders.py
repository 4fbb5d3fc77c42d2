"""Made-up grids as the folders that a driver and its workers write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_grids import made_result

from dqlab.analysis.results import Cell, CellStatus, GridResults
from dqlab.tracking.run_folder import Journal

START = 1_760_000_000.0
GIN = """import dqlab.runs.experiment

# Parameters for DiffusionPolicy:
DiffusionPolicy.n_timesteps = {steps}
Experiment.algorithm = 'diffusion_ql'
Experiment.cell = '{label}'
Experiment.physics = 'mujoco210'
Experiment.replicas = {{}}
Experiment.seeds = \\
    ({seed},)
Experiment.task = '{task}'
Training.steps = 5000
"""


def write_grid(folder: Path, grid: GridResults, state: str = "finished") -> Path:
    """Writes the folder of a grid with one pack for each setting and task."""
    packs: dict[Path, list[Cell]] = {}
    for status in grid.statuses:
        packs.setdefault(folder_of(folder, status.cell).parent, []).append(status.cell)
    for pack, cells in packs.items():
        write_pack(pack, cells)
    for result in grid.results:
        begin_cell(folder, result.cell, 5)
        finish_cell(folder, result)
    for failure in grid.failures:
        begin_cell(folder, failure.cell, 1)
        fail_cell(folder, failure)
    facts = {"name": grid.name, "axes": {name: list(points) for name, points in grid.axes.items()}, "gin": grid.gin}
    facts |= {"labels": grid.labels, "base": grid.base, "tasks": grid.tasks, "seeds": grid.seeds, "state": state}
    facts |= {"mlflow_experiment": grid.name, "packs": [pack.name for pack in packs], "cells": len(grid.statuses)}
    (folder / "grid.gin").write_text(grid.gin)
    write_state(folder, **facts, finished=len(grid.results), failed=len(grid.failures))
    return folder


def write_reusing(folder: Path, grid: GridResults, other: Path, reused: Sequence[Cell]) -> Path:
    """A grid that takes some of its cells from another grid's folder, which has all of them."""
    write_grid(folder, replace(grid, results=tuple(result for result in grid.results if result.cell not in reused)))
    (folder / "plan.json").write_text(json.dumps({"cells": [r.cell.as_dict() for r in grid.results], "packs": {}}))
    elsewhere = {cell.id: str(folder_of(other, cell)) for cell in reused}
    write_state(folder, cells=len(grid.results), finished=len(grid.results), elsewhere=elsewhere)
    return folder


def write_state(folder: Path, **facts: Any) -> None:
    """Add to grid.json."""
    path = folder / "grid.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **facts}))


def folder_of(folder: Path, cell: Cell) -> Path:
    return folder / "packs" / cell.id[:8] / cell.replica


def write_pack(pack: Path, cells: Sequence[Cell], **changes: Any) -> None:
    known = {c.replica: {"seed": c.seed, "cell": c.label, "points": dict(c.points), "set": {}} for c in cells}
    data = {"source": "embedded", "digest": f"digest of {cells[0].task}", "is_d4rl": False}
    facts = {"task": cells[0].task, "algorithm": "diffusion_ql", "physics": "mujoco210", "device": "cpu"}
    facts |= {"device_name": "a processor", "execution": "eager", "git_commit": "abc", "caveat": "not D4RL"}
    facts |= {"seeds": sorted({cell.seed for cell in cells}), "data": data, "variants": {"lr_schedule": "cosine"}}
    facts |= {"versions": {"dqlab": "0.1.0", "torch": "2.13.0"}, "replicas": known, "state": "running"}
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "run.json").write_text(json.dumps({**facts, **changes}))


def write_run(run: Path, seeds: Sequence[int] = (0,), state: str = "finished") -> Path:
    """Writes the folder of a plain run, with a journal, a summary and made-up weights of every seed."""
    cells = [Cell("", points={"N": "5"}, task="walker2d-medium-expert-v2", seed=seed) for seed in seeds]
    write_pack(run, cells, replicas={}, state=state)
    (run / "config.gin").write_text(GIN.format(steps=5, label="", seed=seeds[0], task=cells[0].task))
    for cell in cells:
        own = run / f"seed-{cell.seed}"
        (own / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_journal(own, cell, 5)
        (own / "summary.json").write_text(json.dumps(made_result(cell, 50.0 + cell.seed).summary))
        (own / "curve.png").write_bytes(b"a curve")
        (own / "checkpoints" / "step-000005000.safetensors").write_bytes(b"weights")
    return run


def begin_cell(folder: Path, cell: Cell, records: int) -> None:
    """Its configuration, and so many lines of a journal that a made-up training would write."""
    path = folder_of(folder, cell)
    path.mkdir(parents=True, exist_ok=True)
    text = GIN.format(steps=cell.points["N"], label=cell.label, seed=cell.seed, task=cell.task)
    (path / "config.gin").write_text(text)
    write_journal(path, cell, records)


def write_journal(path: Path, cell: Cell, records: int) -> None:
    journal, level = Journal(path / "metrics.jsonl"), float(cell.points["N"]) + 0.1 * cell.seed
    for index in range(1, records + 1):
        losses = {f"train/{name}": level / index for name in ("actor/bc_loss", "actor/q_loss", "critic/loss")}
        metrics = {**losses, "eval/score_mean": level * index, "eval/score_std": 4.0}
        journal.append({"step": 1000 * index, "time": START + 10.0 * index, "metrics": metrics})


def finish_cell(folder: Path, result: CellStatus) -> None:
    path = folder_of(folder, result.cell)
    (path / "failure.json").unlink(missing_ok=True)
    (path / "curve.png").write_bytes(b"a curve")
    (path / "summary.json").write_text(json.dumps(result.summary))


def fail_cell(folder: Path, failure: CellStatus) -> None:
    reason = {"kind": failure.failure, "reason": failure.reason, "step": 1234}
    (folder_of(folder, failure.cell) / "failure.json").write_text(json.dumps(reason))
