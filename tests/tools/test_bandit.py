"""`dqlab figure bandit` from gin files to the PNG, and what must be seen of diffusion in it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from rich.console import Console

from dqlab import cli
from dqlab.data.sources import make_rows
from dqlab.errors import ConfigError, DqlabError, RunError
from dqlab.tools.bandit import OFF, ON, ROWS, Cloud, Coverage, FigureRow, draw_bandit, draw_clouds, policy_samples

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

    A Gaussian fitted to the data has a tenth of its samples there, as is shown below.
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


LEFT_UP, LEFT_DOWN, RIGHT_UP, BEST = (-0.8, 0.8), (-0.8, -0.8), (0.8, 0.8), (0.8, -0.8)


NEAR, FAR = [LEFT_UP, BEST], [(0.0, 0.9), (-1.0, -1.0)]


@pytest.mark.parametrize(
    ("actions", "counts", "entropy", "on_modes"),
    [
        (
            [BEST] * 4 + [RIGHT_UP] * 2 + [(0.0, 0.0), (0.5, -0.8)],
            (0, 0, 2, 4),
            math.log(3) - 2 / 3 * math.log(2),
            0.75,
        ),
        ([LEFT_UP, LEFT_DOWN, RIGHT_UP, BEST], (1, 1, 1, 1), 1.3862943611198906, 1.0),
        ([BEST] * 3, (0, 0, 0, 3), 0.0, 1.0),
        ([(0.0, 0.0)] * 5, (0, 0, 0, 0), 0.0, 0.0),
        ([(0.8, -0.5500001), (0.8, -0.5499)], (0, 0, 0, 1), 0.0, 0.5),
        (NEAR, (1, 0, 0, 1), math.log(2), 1.0),
        (NEAR + FAR, (1, 0, 0, 1), math.log(2), 0.5),
    ],
    ids=["by hand", "equal modes", "one mode", "nothing on a mode", "a quarter is the radius", "near", "near and far"],
)
def test_coverage(actions: list[tuple[float, float]], counts: tuple[int, ...], entropy: float, on_modes: float) -> None:
    """Entropies are of near samples only."""
    got = Coverage.of(np.array(actions))
    assert (got.samples, got.counts, got.on_modes, got.on_best) == (
        len(actions),
        counts,
        on_modes,
        counts[3] / len(actions),
    )
    assert got.entropy == pytest.approx(entropy)
    assert got.entropy_share == pytest.approx(entropy / math.log(4))


def test_the_data_cover_all_modes_and_a_gaussian_fitted_to_them_does_not() -> None:
    actions = make_rows(0, 10_000).actions[:-1].astype(float)
    data = Coverage.of(actions)
    assert data.on_modes > 0.9999
    assert data.entropy_share > 0.9999
    rng = np.random.default_rng(0)
    fitted = np.clip(rng.multivariate_normal(actions.mean(0), np.cov(actions.T), 10_000), -1, 1)
    assert 0.03 < Coverage.of(fitted).on_modes < 0.2


@pytest.mark.parametrize("actions", [np.zeros((0, 2)), np.array([[0.0, np.nan]])])
def test_no_samples_or_broken_ones_are_refused(actions: np.ndarray) -> None:
    with pytest.raises(RunError, match="at least one sample, and finite ones"):
        Coverage.of(actions)


def rows() -> dict[str, list[Cloud]]:
    rng = np.random.default_rng(0)
    first = [Cloud(f"upper {index}", rng.uniform(-1, 1, (40, 2))) for index in range(3)]
    second = [Cloud("lower 0", rng.uniform(-1, 1, (40, 2)), rng.normal(size=40)), Cloud("lower 1", np.zeros((5, 2)))]
    return {"above": first, "below": second}


def panels(figure: Any) -> list[Any]:
    return [axes for part in figure.subfigs for axes in part.axes if axes.get_visible() and axes.get_aspect() == 1.0]


def test_every_cloud_has_its_panel() -> None:
    figure = draw_clouds(rows())
    drawn = panels(figure)
    assert [axes.get_title() for axes in drawn] == ["upper 0", "upper 1", "upper 2", "lower 0", "lower 1"]
    assert [part.get_suptitle() for part in figure.subfigs] == ["above", "below", ""]
    for axes in drawn:
        assert axes.get_xlim() == axes.get_ylim() == (-1.2, 1.2)
        assert len(axes.patches) == 4  # the modes' rings
        assert "on a mode" in axes.get_xlabel()


def test_numbers_are_those_of_the_samples() -> None:
    actions = np.array([(0.8, -0.8)] * 3 + [(0.0, 0.0)])
    (axes,) = panels(draw_clouds({"": [Cloud("", actions)]}))
    assert axes.get_xlabel() == "on a mode 75.0%\nentropy 0.00 nats (0% of log 4)\non the best mode 75.0%"


def test_samples_are_where_they_are_and_coloured_by_what_they_hit() -> None:
    actions = np.array([(0.8, -0.8), (0.1, 0.2)])
    (axes,) = panels(draw_clouds({"": [Cloud("", actions)]}))
    (points,) = [item for item in axes.collections if isinstance(item, PathCollection)]
    assert np.array_equal(points.get_offsets(), actions)
    assert [tuple(colour[:3]) for colour in points.get_facecolor()] == [to_rgb(ON), to_rgb(OFF)]


def test_rewards_are_shown_as_colour() -> None:
    figure = draw_clouds(rows())
    axes = next(axes for axes in panels(figure) if axes.get_title() == "lower 0")
    (points,) = [item for item in axes.collections if isinstance(item, PathCollection)]
    assert np.array_equal(points.get_array(), rows()["below"][0].rewards)
    assert len(axes.child_axes) == 1  # the scale


def test_the_picture_is_large_enough(tmp_path: Path) -> None:
    draw_clouds(rows()).savefig(tmp_path / "figure.png")
    image = matplotlib.image.imread(tmp_path / "figure.png")
    assert min(image.shape[:2]) > 500
    assert float(image[..., :3].std()) > 0.02
