"""`make fidelity`: its page says what was measured, of both stacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, isolated


def make_page(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "fidelity.py"), *args]
    return subprocess.run(command, cwd=folder, env=isolated(folder), capture_output=True, text=True, timeout=500)


@pytest.mark.legacy
def test_the_page_of_one_environment(tmp_path: Path) -> None:
    done = make_page(tmp_path, "--robot", "hopper", "--episodes", "2", "--out", "page.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| hopper")]
    lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    errors, earned = ({cells[1]: cells for cells in some} for some in (lines[:3], lines[3:]))
    assert float(errors["gymnasium, mujoco210"][3]) < 1e-12
    assert float(errors["gymnasium, modern"][3]) > 1e-3
    assert float(earned["gymnasium, mujoco210"][-1]) < 1e-9
    assert "mujoco 2.1.0" in text
    unknown = make_page(tmp_path, "--robot", "hoper", "--out", "other.md")
    assert (unknown.returncode, "Did you mean 'hopper'" in unknown.stderr) == (2, True)
