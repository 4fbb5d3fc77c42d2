"""OGBench's state-based single-task tasks: names, sizes, data sets and their addresses (ogbench.json).

Of 82 data sets with single tasks, 47 have states, the others pictures: 5 tasks each, and the default one once more,
without a number. Importing this needs no ogbench.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from dqlab.config.fields import check_field, check_fields
from dqlab.config.registry import configurable
from dqlab.envs.tasks import Task, tasks

FACTS: dict[str, Any] = json.loads((files("dqlab.envs") / "ogbench.json").read_text())
BENCHMARK = "ogbench"


@configurable("envs")
@dataclass(frozen=True)
class OGBench:
    """What gin files may choose about OGBench's environments.

    Attributes:
        success_timing: `pre` judges success in the state in which an action is taken, r(s), as the rewards of the data
            do, and ogbench since 1.2.0; `post` in the state that follows, r(s'), as ogbench did until 1.1.5.
    """

    success_timing: str = "pre"

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.success_timing in ("pre", "post"), self, "success_timing", "'pre' or 'post'")

    @property
    def condition(self) -> str:
        """What must stand beside every score: those of different timing do not compare."""
        return f"success_timing {self.success_timing!r}"


def dataset_of(task: str) -> str:
    """The data set of a task, `cube-single-play-v0` of `cube-single-play-singletask-task3-v0`."""
    return re.sub(r"-singletask(-task\d)?(?=-v\d+$)", "", task)


def environment_of(task: str) -> str:
    """The environment of a task, `cube-single` of `cube-single-play-singletask-task3-v0`."""
    return dataset_of(task).rsplit("-", 2)[0]


ENV_ID, CITES = "dqlab.envs.ogbench_env:dqlab/OGBench-v0", ("park2025ogbench",)
COMMON = {"file": "", "settings": OGBench, "extra": "ogbench", "benchmark": BENCHMARK, "measures_success": True}

for _environment, _facts in FACTS["environments"].items():
    _first = _environment.split("-")[0]
    _own = {name: facts for name, facts in FACTS["environments"].items() if name.split("-")[0] == _first}
    _sizes = "|".join(name.partition("-")[2] for name in _own)
    _kinds = "|".join(dict.fromkeys(kind for facts in _own.values() for kind in facts["datasets"]))
    _family = f"{_first}-{_sizes and f'({_sizes})-'}({_kinds})-singletask[-task1 to 5]-v0"
    _known: dict[str, Any] = {name: _facts[name] for name in ("episode_limit", "state_dim", "action_dim")} | COMMON
    _any = Task("", f"ogbench-{_environment}", ENV_ID, 0.0, 1.0, **_known)
    for _kind, (_episodes, _rows) in _facts["datasets"].items():
        for _number in ("", "-task1", "-task2", "-task3", "-task4", "-task5"):
            _name = f"{_environment}-{_kind}-singletask{_number}-v0"
            _which = _number.removeprefix("-task") or f"{_facts['default_task']}, the default"
            _task = replace(_any, name=_name, env_kwargs={"name": _name}, rows=_episodes * _rows)
            _summary = f"{_environment}, data of {_environment}-{_kind}-v0, task {_which}; {_task.caveat}"
            tasks.add(_name, _task, source=FACTS["source"], cites=CITES, summary=_summary, family=_family)
