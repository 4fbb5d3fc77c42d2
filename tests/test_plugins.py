"""Installed plugins: found by entry point; a broken one is skipped by name; two that claim one name are both named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT, bindings

Run = Callable[..., subprocess.CompletedProcess[str]]

SCHEDULE = '''
import torch
from dqlab.diffusion.schedules import noise_schedules

@noise_schedules.register("flat")
def {function}(n_timesteps: int, beta: float = 0.3) -> torch.Tensor:
    """The same beta at every step."""
    return torch.full((n_timesteps,), beta, dtype=torch.float64)
'''


def install(folder: Path, name: str, code: str) -> dict[str, str]:
    """Lay a distribution with a `dqlab.plugins` entry point where Python finds it; returns the environment."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[dqlab.plugins]\n{name} = {name}\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def test_an_installed_plugin_needs_no_flag(dqlab: Run, tmp_path: Path) -> None:
    env = install(tmp_path, "good_plugin", SCHEDULE.format(function="flat"))
    done = dqlab("list", "noise_schedule", env=env)
    assert "The same beta at every step." in done.stdout
    assert "beta=0.3" in done.stdout


def test_a_run_with_an_installed_plugin_can_be_evaluated(dqlab: Run, tmp_path: Path) -> None:
    """No import line in its config.gin: the entry point alone must do, for training and for eval."""
    env = install(tmp_path, "good_plugin", SCHEDULE.format(function="flat"))
    args = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--steps", "10", "--out", "run", "-q"]
    trained = dqlab(*args, *bindings("DiffusionPolicy.schedule=flat", "flat.beta=0.2"), env=env)
    assert trained.returncode == 0, trained.stderr
    assert "import good_plugin" not in (tmp_path / "run" / "config.gin").read_text()
    evaluated = dqlab("eval", "run", env=env)
    assert evaluated.returncode == 0, evaluated.stderr


def test_a_broken_plugin_is_named_and_skipped(dqlab: Run, tmp_path: Path) -> None:
    install(tmp_path, "good_plugin", SCHEDULE.format(function="flat"))
    env = install(tmp_path, "broken_plugin", "raise RuntimeError('no licence')")
    done = dqlab("list", "noise_schedule", env=env)
    assert done.returncode == 0
    assert "plugin 'broken_plugin' (broken_plugin) is skipped: RuntimeError('no licence')" in done.stderr
    assert "Traceback" not in done.stderr
    assert "flat" in done.stdout


def test_two_plugins_that_claim_one_name_are_both_named(dqlab: Run, tmp_path: Path) -> None:
    install(tmp_path, "plugin_one", SCHEDULE.format(function="flat_one"))
    env = install(tmp_path, "plugin_two", SCHEDULE.format(function="flat_two"))
    done = dqlab("list", env=env)
    assert done.returncode == 2
    assert "plugin_one:" in done.stderr
    assert "plugin_two:" in done.stderr


def test_a_module_that_fails_is_one_line(dqlab: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0")
    done = dqlab("list", "--plugin", "mine", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.returncode == 2
    assert "'mine' fails when it is imported: ZeroDivisionError" in done.stderr
