"""`dqlab figure bandit` from gin files to the PNG, and what must be seen of diffusion in it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from dqlab import cli
from dqlab.errors import ConfigError, RunError
from dqlab.tools.bandit import OFF, ON, ROWS, Cloud, FigureRow, draw_bandit, draw_clouds, mode_coverage, policy_samples

TINY = (
    "Training.steps=4",
    "Training.eval_every=2",
    "Training.eval_episodes=2",
    "Training.batch_size=8",
    "DiffusionPolicy.n_timesteps=5",
    "Tracking.mlflow=False",
)
COMMAND = ["figure", "bandit", "--samples", "20", "--set", *TINY, "--out"]
CLONING, IMPROVEMENT = ROWS


def draw(out: Path, row: FigureRow, label: str, *bindings: str, samples: int = 10) -> dict[str, Any]:
    """The figure of one policy; its numbers."""
    draw_bandit(out, bindings, samples, [row._replace(panels={label: row.panels[label]})])
    found: dict[str, Any] = json.loads((out / "numbers.json").read_text())[0]["panels"][1]
    return found


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command itself, on budgets of seconds."""
    out = tmp_path_factory.mktemp("figure")
    assert cli.main([*COMMAND, str(out)]) == 0
    return out


def test_all_panels(figure: Path) -> None:
    """The paper's figure; and again: nothing is trained, and the numbers are the same."""
    record = json.loads((figure / "numbers.json").read_text())
    assert [[panel["label"] for panel in row["panels"]] for row in record] == [
        ["Ground truth", "Gaussian", "CVAE", "MMD", "Diffusion"],
        ["Ground truth, rewards", "Gaussian-QL", "CVAE-QL", "MMD-QL", "Diffusion-QL"],
    ]
    assert all(row["panels"][0]["on_modes"] == 1.0 for row in record)
    assert all(panel["samples"] == 20 for row in record for panel in row["panels"])
    image = matplotlib.image.imread(figure / "bandit.png")
    assert min(image.shape[:2]) > 500
    assert float(image[..., :3].std()) > 0.02
    assert len((figure / "numbers.md").read_text().splitlines()) == 2 + 10
    weights = {path: path.stat().st_mtime_ns for path in figure.rglob("*.safetensors")}
    assert len(weights) >= 8
    assert cli.main([*COMMAND, str(figure)]) == 0
    assert {path: path.stat().st_mtime_ns for path in figure.rglob("*.safetensors")} == weights
    assert json.loads((figure / "numbers.json").read_text()) == record


def test_an_unfinished_run_is_continued(figure: Path, tmp_path: Path) -> None:
    """What a run leaves behind that was killed before its first record is continued, and ends as another one."""
    broken = shutil.copytree(figure / "bc_diffusion", tmp_path / "bc_diffusion")
    (broken / "run.json").write_text((broken / "run.json").read_text().replace('"finished"', '"running"'))
    shutil.rmtree(broken / "seed-0")
    for name in ("checkpoint.safetensors", "config.gin"):
        (broken / name).unlink()
    draw(tmp_path, CLONING, "Diffusion", *TINY)
    assert (policy_samples(figure / "bc_diffusion", 5) == policy_samples(broken, 5)).all()


def test_a_run_of_another_configuration_is_not_taken_for_this_one(figure: Path) -> None:
    with pytest.raises(RunError, match=r"another configuration: Training.steps: 4 before, 6 now. Delete it"):
        draw(figure, CLONING, "Diffusion", *TINY, "Training.steps=6")
    with pytest.raises(ConfigError, match="--samples must be at least 1"):
        draw(figure, CLONING, "Diffusion", samples=0)


def test_samples_are_the_policys_own_and_repeat(figure: Path, tmp_path: Path) -> None:
    """They do not depend on how the agent would choose among candidates."""
    draw(tmp_path, IMPROVEMENT, "Diffusion-QL", *TINY, "DiffusionQL.selection='single'")
    first, again, single = (policy_samples(out / "ql_diffusion", 30) for out in (figure, figure, tmp_path))
    assert first.shape == (30, 2)
    assert (first == again).all()
    assert (first == single).all()
    assert abs(first).max() <= 1.0
    assert len({tuple(action) for action in first.tolist()}) > 3


LONG = ("Training.execution='eager'", "Tracking.mlflow=False")


def test_diffusion_covers_all_four_modes(tmp_path: Path) -> None:
    """What the figure must show, of a short run."""
    budget = ("Training.steps=4_000", "Training.eval_every=4_000")
    found = draw(tmp_path, CLONING, "Diffusion", *LONG, *budget, samples=1000)
    assert found["on_modes"] >= 0.95
    assert min(found["counts"]) >= 150
    assert found["entropy_share"] > 0.97


def test_diffusion_ql_moves_to_the_best_mode(tmp_path: Path) -> None:
    """After a third of the shipped run more samples are there than cloning puts there, and none on the others."""
    budget = ("Training.steps=1_500", "Training.eval_every=1_500", "DDIM.steps=2", "DiffusionQL.eta=1.0")
    found = draw(tmp_path, IMPROVEMENT, "Diffusion-QL", *LONG, *budget, samples=1000)
    assert found["on_best"] > 0.35
    assert sum(found["counts"][:3]) <= 20


BEST = (0.8, -0.8)
MIXED = [BEST] * 4 + [(0.8, 0.8)] * 2 + [(0.0, 0.0), (0.5, -0.8)]
COVERED: dict[str, tuple[list[tuple[float, float]], list[int], float, float]] = {
    "by hand": (MIXED, [0, 0, 2, 4], math.log(3) - 2 / 3 * math.log(2), 0.75),
    "equal modes": ([(-0.8, 0.8), (-0.8, -0.8), (0.8, 0.8), BEST], [1, 1, 1, 1], math.log(4), 1.0),
    "nothing on a mode": ([(0.0, 0.0)] * 5, [0, 0, 0, 0], 0.0, 0.0),
    "a quarter is the radius": ([(0.8, -0.5500001), (0.8, -0.5499)], [0, 0, 0, 1], 0.0, 0.5),
}


def test_coverage() -> None:
    """Entropies are of near samples only."""
    for case, (actions, counts, entropy, on_modes) in COVERED.items():
        got, n = mode_coverage(np.array(actions)), len(actions)
        said = [got[name] for name in ("samples", "counts", "on_modes", "on_best")]
        assert said == [n, counts, on_modes, counts[3] / n], case
        assert got["entropy"] == pytest.approx(entropy)
        assert got["entropy_share"] == pytest.approx(entropy / math.log(4))
    for broken in (np.zeros((0, 2)), np.array([[0.0, np.nan]])):
        with pytest.raises(RunError, match="at least one sample, and finite ones"):
            mode_coverage(broken)


def test_every_cloud_has_its_panel() -> None:
    """Samples are where they are, coloured by what they hit, or by their rewards, with a scale."""
    actions, rewards = np.array([(0.8, -0.8), (0.1, 0.2)]), np.array([1.0, 2.0])
    rows = {"above": [Cloud("a", actions), Cloud("b", actions)], "below": [Cloud("c", actions, rewards)]}
    figure = draw_clouds(rows)
    panels = [each for part in figure.subfigs for each in part.axes if each.get_visible() and each.get_aspect() == 1.0]
    assert [axes.get_title() for axes in panels] == ["a", "b", "c"]
    assert [part.get_suptitle() for part in figure.subfigs] == ["above", "below", ""]
    for axes in panels:
        assert axes.get_xlim() == axes.get_ylim() == (-1.2, 1.2)
        assert len(axes.patches) == 4  # the modes' rings
        assert axes.get_xlabel() == "on a mode 50.0%\nentropy 0.00 nats (0% of log 4)\non the best mode 50.0%"
    plain, coloured = (
        next(item for item in axes.collections if isinstance(item, PathCollection)) for axes in panels[1:]
    )
    assert np.array_equal(plain.get_offsets(), actions)
    assert [tuple(colour[:3]) for colour in plain.get_facecolor()] == [to_rgb(ON), to_rgb(OFF)]
    assert np.array_equal(coloured.get_array(), rewards)
    assert len(panels[2].child_axes) == 1
