"""Grids with made-up results, whose statistics are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dqlab.analysis.results import FINISHED, Cell, CellStatus, GridResults
from dqlab.tracking.selection_rules import SELECTION_RULES

TASKS = ("walker2d-medium-expert-v2", "hopper-medium-expert-v2")
Score = Callable[[str, str, int], float]


def made_result(cell: Cell, final: float, evaluations: int = 5) -> CellStatus:
    """Climbs linearly to its last score; best-online is 3 points higher, offline 1 lower, the mean 2 lower."""
    rows = []
    for step in range(1000, 1000 * evaluations + 1, 1000):
        score = final * step / (1000 * evaluations)
        losses = {"selection_loss": 1.0 / step, "losses": {"actor/bc_loss": 1.0 / step}}
        returns = {"return_mean": 40.0 * score, "return_std": 10.0, "score_mean": score, "score_std": 4.0}
        rows.append({"step": step, **returns, **losses})
    fixed = {"step": 1000 * evaluations, "score_std": 5.0, "return_mean": 100.0}
    offsets = dict(zip(SELECTION_RULES, (0.0, -1.0, 3.0, -2.0), strict=True))
    selection = {rule: {"rule": rule, "score_mean": final + offset, **fixed} for rule, offset in offsets.items()}
    facts = {"seed": cell.seed, "task": cell.task, "algorithm": "diffusion_ql", "physics": "mujoco210"}
    summary = {**facts, "caveat": "not D4RL", "selection": selection, "untrained": None, "data_return_mean": 1000.0}
    return CellStatus(cell, FINISHED, summary={**summary, "evaluations": rows})  # type: ignore[typeddict-item]


def made_grid(
    values: Sequence[object] = (2, 5, 10), tasks: Sequence[str] = TASKS, seeds: int = 5, score: Score | None = None
) -> GridResults:
    """A grid over N, normal scores around 50 + N with deviation 5 unless `score(value, task, seed)` says others."""
    rng = np.random.default_rng(0)
    score = score or (lambda value, task, seed: 50.0 + float(value) + 5.0 * float(rng.normal()))
    cells = [
        (str(value), Cell(f"{index:04x}{place:04x}{seed:04x}", f"N={value}", {"N": str(value)}, task, seed))
        for index, value in enumerate(values)
        for place, task in enumerate(tasks)
        for seed in range(seeds)
    ]
    return GridResults(
        name="steps",
        base=f"N={values[-2]}" if len(values) > 1 else f"N={values[0]}",
        labels=tuple(f"N={value}" for value in values),
        axes={"N": tuple(str(value) for value in values)},
        tasks=tuple(tasks),
        seeds=tuple(range(seeds)),
        results=tuple(made_result(cell, score(value, cell.task, cell.seed)) for value, cell in cells),
        gin="Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2, 5, 10)}}\n",
        facts={"versions": {"dqlab": "0.1.0", "torch": "2.13.0"}, "device_names": ["a processor"], "seconds": 600.0},
    )
