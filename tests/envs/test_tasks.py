"""The tasks that are registered, and the page about them."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from itertools import product

import pytest
from conftest import ROOT

from dqlab.data.download import hugging_face_address
from dqlab.envs import tasks
from dqlab.envs.tasks import D4RL, Task

PAGE = (ROOT / "docs" / "tasks.md").read_text().splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE if line.startswith("| `")]


def meant(names: str) -> list[Task]:
    """The tasks of a cell such as `antmaze-{umaze,medium}-{v0,v2}`, or `walker2d-*-v2`."""
    patterns = []
    for text in re.findall(r"`(.+?)`", names):
        parts = re.split(r"\{(.+?)\}", text)
        choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
        patterns += ["".join(chosen) for chosen in product(*choices)]
    return [entry.item for entry in tasks if any(fnmatch(entry.name, pattern) for pattern in patterns)]


def test_the_page_says_what_is_registered() -> None:
    """Every task of D4RL's and Minari's once; of Minari's there are no scores."""
    listed = [task.name for row in ROWS for task in meant(row[0])]
    assert sorted(listed) == sorted(entry.name for entry in tasks if entry.name in D4RL["tasks"] or entry.item.minari)
    for names, _, widths, steps, scores, rows, folder, *_ in (row for row in ROWS if row[4] != "none"):
        for task in meant(names):
            assert widths == f"{task.state_dim}, {task.action_dim}"
            assert int(steps) == task.episode_limit
            plain, _, dense = scores.partition("; dense ")
            shown = [float(number) for number in (dense if "dense" in task.name else plain).split(",")]
            assert shown == pytest.approx([task.min_score, task.max_score], rel=1e-5)
            assert rows == "see below" or f"{task.rows:,}" in rows
            assert task.file.partition("/")[0] in folder or folder == "the same"


def test_files_of_d4rl() -> None:
    """Each task has one of its own; 24 of them a second home; nine are counted."""
    known = [tasks.get(name) for name in D4RL["tasks"]]
    assert len({task.file for task in known}) == len(known) == 59
    assert sum(bool(hugging_face_address(task.file)) for task in known) == 24
    assert sum(task.counted for task in known) == 9
    for task in known:
        assert (task.score(task.min_score), task.score(task.max_score)) == (0.0, pytest.approx(100.0))
        if task.robot in ("walker2d", "hopper", "halfcheetah", "ant"):
            quality = task.name.removeprefix(f"{task.robot}-").removesuffix("-v2").replace("-", "_")
            assert task.file == f"gym_mujoco_v2/{task.robot}_{quality}-v2.hdf5"


def test_tasks_of_minaris() -> None:
    known = [entry.item for entry in tasks if entry.item.minari]
    assert len(known) == 25
    for task in known:
        assert task.name == task.minari.replace("/", "-")
        assert (task.file, task.scored, task.score(1234.0)) == ("", False, 1234.0)
        assert task.caveat == "returns, no scores"
