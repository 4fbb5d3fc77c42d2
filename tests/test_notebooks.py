"""docs/notebooks: each runs from first to last cell, on a smaller budget, and shows what the stored one shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import nbformat
import pytest
from conftest import ROOT, isolated
from mlflow_stores import fresh_store
from nbclient import NotebookClient

NOTEBOOKS = ROOT / "docs" / "notebooks"
BUDGETS = {
    "bandit": "STEPS = 20",
    "own_data": "STEPS = 40",
    "own_denoiser": "STEPS, SEEDS = 20, [0, 1]",
    "grid_from_mlflow": "STEPS, SEEDS = 20, [0, 1]",
}
"""What takes the place of a notebook's cell of parameters."""
KERNEL = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""What kernels set before they import matplotlib, so that pictures stand below cells."""


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    """Kernels, and what they start, are forks of a template that has imported matplotlib as kernels do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked, "MODULES", (*forked.MODULES, "ipykernel_launcher"))
        if subprocess.Popen is forked.Popen:
            patch.setattr(forked, "template", forked.Template(born={**os.environ, **KERNEL}))
        yield


def shown(cell: Any) -> list[str]:
    """What kinds of things stand below a cell: tables, pictures, and text by its stream."""
    outputs = cell.get("outputs", [])
    kinds = [kind for output in outputs for kind in output.get("data", {}) if kind in ("image/png", "text/html")]
    return [*kinds, *(output["name"] for output in outputs if output["output_type"] == "stream")]


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs_as_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, trial = (nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4) for _ in range(2))
    (parameters,) = (cell for cell in trial.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = BUDGETS[name]
    fresh_store(tmp_path)
    for key, value in {**isolated(tmp_path), **KERNEL}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # for `!dqlab`
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(trial, timeout=300, kernel_name="python3", resources=where, coalesce_streams=True).execute()
    for then, now in zip(stored.cells, trial.cells, strict=True):
        assert shown(now) == shown(then), f"{now.source}\n{now.get('outputs')}"
