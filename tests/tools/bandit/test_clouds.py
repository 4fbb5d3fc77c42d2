"""The drawing, from samples that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from dqlab.tools.bandit import OFF, ON, Cloud, draw_clouds


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
