"""`dqlab figure bandit` from gin files to the PNG; and what must be seen of diffusion on the bandit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dqlab import cli
from dqlab.errors import ConfigError, DqlabError, RunError
from dqlab.tools.bandit import ROWS, FigureRow, draw_bandit, policy_samples

TINY = (
    "Training.steps=4",
    "Training.eval_every=2",
    "Training.eval_episodes=2",
    "Training.batch_size=8",
    "DiffusionPolicy.n_timesteps=5",
    "Tracking.mlflow=False",
)
CLONING, IMPROVEMENT = ROWS
DIFFUSION = replace(CLONING, panels=CLONING.panels[-1:])


def quiet() -> Console:
    return Console(quiet=True)


def test_the_table_is_the_papers_figure() -> None:
    labels = [[panel.label for panel in row.panels] for row in ROWS]
    assert labels == [
        ["Gaussian", "CVAE", "MMD", "Diffusion"],
        ["Gaussian-QL", "CVAE-QL", "MMD-QL", "Diffusion-QL"],
    ]
    assert len({panel.folder(Path()) for row in ROWS for panel in row.panels}) == 8
    assert [row.rewards for row in ROWS] == [False, True]


def test_all_panels_on_tiny_budgets(tmp_path: Path) -> None:
    """The command itself, end to end; then again: nothing is trained, and the numbers are the same."""
    command = ["figure", "bandit", "--out", str(tmp_path), "--samples", "20", "--set", *TINY]
    assert cli.main(command) == 0
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert [[panel["label"] for panel in row["panels"]] for row in record] == [
        [row.truth, *(panel.label for panel in row.panels)] for row in ROWS
    ]
    for row in record:
        assert row["panels"][0]["on_modes"] == 1.0
        assert all(panel["samples"] == 20 for panel in row["panels"])
    assert (tmp_path / "bandit.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "numbers.md").read_text().splitlines()
    assert len(table) == 2 + sum(1 + len(row.panels) for row in ROWS)
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(weights) >= sum(len(row.panels) for row in ROWS)
    assert cli.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == weights
    assert json.loads((tmp_path / "numbers.json").read_text()) == record


def test_an_unfinished_run_is_continued(tmp_path: Path) -> None:
    """What a run leaves behind that was killed before its first record is continued, and ends as another one."""
    make(tmp_path / "whole")
    make(tmp_path / "broken")
    facts = tmp_path / "broken" / "bc_diffusion" / "run.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "state": "running"}))
    shutil.rmtree(facts.parent / "seed-0")
    for name in ("checkpoint.safetensors", "config.gin"):
        (facts.parent / name).unlink()
    make(tmp_path / "broken")
    whole, again = (policy_samples(tmp_path / name / "bc_diffusion", 5) for name in ("whole", "broken"))
    assert (whole == again).all()


def make(out: Path, *more: str, fresh: bool = False, rows: tuple[FigureRow, ...] = (DIFFUSION,)) -> None:
    draw_bandit(out, [*TINY, *more], 10, fresh, rows, quiet())


def test_a_run_of_another_configuration_is_not_taken_for_this_one(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(RunError, match=r"another configuration: Training.steps: 4 before, 6 now. Use --fresh"):
        make(tmp_path, "Training.steps=6")
    make(tmp_path, "Training.steps=6", fresh=True)
    summary = json.loads((tmp_path / "bc_diffusion" / "seed-0" / "summary.json").read_text())
    assert summary["selection"]["last"]["step"] == 6


def test_fresh_spares_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "bc_diffusion").mkdir()
    (tmp_path / "bc_diffusion" / "mine.txt").write_text("kept")
    with pytest.raises(DqlabError, match="is not empty and holds no run"):
        make(tmp_path, fresh=True)
    assert (tmp_path / "bc_diffusion" / "mine.txt").read_text() == "kept"


def test_samples_are_the_policys_own_and_repeat(tmp_path: Path) -> None:
    """They do not depend on how the agent would choose among candidates."""
    rows = (replace(IMPROVEMENT, panels=IMPROVEMENT.panels[-1:]),)
    make(tmp_path / "chosen", "SoftmaxQ.n_candidates=2", rows=rows)
    make(tmp_path / "single", "DiffusionQL.selection='single'", rows=rows)
    runs = [tmp_path / name / "ql_diffusion" for name in ("chosen", "chosen", "single")]
    first, again, single = (policy_samples(run, 30) for run in runs)
    assert first.shape == (30, 2)
    assert (first == again).all()
    assert (first == single).all()
    assert abs(first).max() <= 1.0
    assert len({tuple(action) for action in first.tolist()}) > 3


def test_no_samples_make_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--samples must be at least 1"):
        draw_bandit(tmp_path, TINY, 0, console=quiet())


def test_diffusion_covers_all_four_modes(tmp_path: Path) -> None:
    """What the figure must show, of a short run: 95% of the samples on modes, and no mode left out.

    A Gaussian fitted to the data has a tenth of its samples there (tests/tools/bandit/test_coverage.py).
    """
    bindings = ["Training.steps=4_000", "Training.eval_every=4_000", "Tracking.mlflow=False"]
    draw_bandit(tmp_path, bindings, 1000, rows=(DIFFUSION,), console=quiet())
    truth, diffusion = json.loads((tmp_path / "numbers.json").read_text())[0]["panels"]
    assert truth["on_modes"] > 0.999
    assert diffusion["on_modes"] >= 0.95
    assert min(diffusion["counts"]) >= 150
    assert diffusion["entropy_share"] > 0.97


def test_a_trained_gaussian_does_not(tmp_path: Path) -> None:
    """Maximum likelihood spreads one Gaussian over all modes and what is between them."""
    bindings = ["Training.steps=2_000", "Training.eval_every=2_000", "Tracking.mlflow=False"]
    gaussian = replace(CLONING, panels=CLONING.panels[:1])
    draw_bandit(tmp_path, bindings, 1000, rows=(gaussian,), console=quiet())
    (_, found) = json.loads((tmp_path / "numbers.json").read_text())[0]["panels"]
    assert found["on_modes"] < 0.5


def test_diffusion_ql_moves_to_the_best_mode(tmp_path: Path) -> None:
    """The shipped run as it is, a minute on one core: most of its samples are on the lower right mode."""
    improved = replace(IMPROVEMENT, panels=IMPROVEMENT.panels[-1:])
    draw_bandit(tmp_path, ["Tracking.mlflow=False"], 1000, rows=(improved,), console=quiet())
    (_, found) = json.loads((tmp_path / "numbers.json").read_text())[0]["panels"]
    assert found["on_best"] > 0.5
    assert found["on_modes"] > 0.8
