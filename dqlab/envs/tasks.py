"""The tasks: D4RL's names, files, episode limits and reference scores, and which environment has them (d4rl.json);
those of Minari's datasets (minari.json); OGBench's single tasks with states (ogbench.json), of whose 82 data sets 47
have states, the others pictures; and what actions in [-1, 1] stand for between an environment's bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from typing import Any

import numpy as np

from dqlab.config.fields import check_field, check_fields
from dqlab.config.registry import Registry, configurable
from dqlab.envs.mazes import AntMaze
from dqlab.envs.physics import Array, Body
from dqlab.errors import SUCCESS, UNSCORED


@dataclass(frozen=True)
class Task:
    """What D4RL (or whoever defines it) says of one task.

    Attributes:
        name: D4RL's name, such as `walker2d-medium-expert-v2`; Minari's with hyphens.
        robot: the environment among D4RL's, such as `walker2d` or `antmaze-large`; tasks with the same one share it.
        env_id: the Gymnasium environment with the same observation, reward and termination as D4RL's, as `NAME`, or
            `MODULE:NAME` where importing a module registers it.
        min_score, max_score: returns that D4RL scores as 0 and 100.
        episode_limit: steps after which an episode is truncated.
        file: the dataset's file, relative to D4RL's root; empty where D4RL has none.
        state_dim, action_dim: widths of observation and action; actions lie in [-1, 1].
        body: what a physics law must know of the model's bodies; None for a model that needs no correction.
        env_kwargs: arguments of the environment.
        settings: a configurable dataclass whose fields are more of them: what gin may choose; None for none.
        extra: the extra of dqlab's that installs what the environment needs; empty for none.
        rows: of D4RL's file; 0 where it has none.
        counted: whether `rows` is exact; approximate otherwise.
        minari: the id of the dataset in Minari; empty where it has none.
        benchmark: that it belongs to, if not D4RL's: the name of a data source, of a data format that knows its data by
            the task's name, and of the package of its environment, whose version is recorded; empty for none.
        measures_success: whether the return of an evaluation's episode is 1 where the task was solved and 0 elsewhere,
            so that the mean score is the success rate in %; the data's rewards are others, and have no score.
        parallel: whether several threads may each step a copy of the environment at the same time: copies that share
            nothing, and compute outside of Python.
        scored: whether there are reference scores; where there are none, 0 and 100, a score is the return.
    """

    name: str
    robot: str
    env_id: str
    min_score: float
    max_score: float
    episode_limit: int
    file: str
    state_dim: int
    action_dim: int
    body: Body | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Callable[[], Any] | None = None
    extra: str = ""
    rows: int = 0
    counted: bool = False
    minari: str = ""
    parallel: bool = False
    scored: bool = True
    benchmark: str = ""
    measures_success: bool = False

    @property
    def caveat(self) -> str:
        """What must stand beside every score on this task; empty where nothing must."""
        return SUCCESS if self.measures_success else "" if self.scored else UNSCORED

    @property
    def condition(self) -> str:
        """What must stand beside every score as gin chose its environment; a ConfigError where a choice is wrong."""
        return getattr(self.settings(), "condition", "") if self.settings else ""

    @property
    def environment(self) -> str:
        """What messages call its environment: the user's own id where it is one of the user's."""
        return str(self.env_kwargs.get("env_id", self.env_id))

    def score(self, episode_return: Any) -> Any:
        """D4RL's normalised score (0 random, 100 expert) of an undiscounted return, or of an array of them."""
        return 100.0 * (episode_return - self.min_score) / (self.max_score - self.min_score)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the environment: its own, and those that gin has chosen; a ConfigError where one is wrong."""
        return {**self.env_kwargs, **(asdict(self.settings()) if self.settings else {})}

    @property
    def source(self) -> str:
        """The data source that has its dataset, where that is not D4RL; empty elsewhere."""
        return f"minari:{self.minari}" if self.minari else self.benchmark

    @property
    def url(self) -> str:
        """Where D4RL publishes the dataset."""
        return str(D4RL["root"]) + self.file


tasks: Registry[Task] = Registry(
    "task", "A benchmark task: environment, dataset file and reference scores.", "Experiment.task"
)
_read = (json.loads((files("dqlab.envs") / f"{name}.json").read_text()) for name in ("d4rl", "minari", "ogbench"))
D4RL, MINARI, OGBENCH = _read
BENCHMARK = "ogbench"  # that OGBench's tasks belong to
BOXED = "dqlab.envs.boxed:dqlab/Boxed-v0"  # any Gymnasium environment, its actions stretched to [-1, 1]
UNLIMITED = -1  # the episode limit that tells Gymnasium not to cut episodes


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


for _name, (_robot, _file, _rows, *_counted) in D4RL["tasks"].items():
    # v4, not v5, has D4RL's rewards and bodies; AntMaze and hands at tables set a callback, and so are not parallel
    _facts = dict(D4RL["environments"][_robot])
    if "body" in _facts:
        _facts["body"] = Body(**_facts["body"])
    if "settings" in _facts:
        _facts["settings"] = AntMaze
    _made = Task(name=_name, robot=_robot, file=_file, rows=_rows, counted=any(_counted), **_facts)
    _summary = f"{_made.robot}; {_made.env_id}"
    tasks.add(_name, _made, source="D4RL (Fu et al. 2020)", cites=("fu2020d4rl",), summary=_summary)
for _name, _facts in MINARI["environments"].items():
    _sizes = {name: _facts[name] for name in ("episode_limit", "state_dim", "action_dim")}
    _kwargs = {"env_id": _facts["env_id"], "env_kwargs": {}}
    _any = Task("", _facts["env_id"], BOXED, 0.0, 100.0, file="", scored=False, env_kwargs=_kwargs, **_sizes)
    for _quality in _facts["qualities"]:
        _made = replace(_any, name=f"mujoco-{_name}-{_quality}-v0", minari=f"mujoco/{_name}/{_quality}-v0")
        _summary = f"{_made.robot}; {_made.source}; {UNSCORED}"
        tasks.add(_made.name, _made, source=MINARI["source"], cites=("younis2024minari",), summary=_summary)
_common = {"file": "", "settings": OGBench, "extra": "ogbench", "benchmark": BENCHMARK, "measures_success": True}
for _environment, _facts in OGBENCH["environments"].items():
    _known: dict[str, Any] = {name: _facts[name] for name in ("episode_limit", "state_dim", "action_dim")} | _common
    _any = Task("", f"ogbench-{_environment}", "dqlab.envs.ogbench_env:dqlab/OGBench-v0", 0.0, 1.0, **_known)
    for _kind, (_episodes, _rows) in _facts["datasets"].items():
        for _number in ("", "-task1", "-task2", "-task3", "-task4", "-task5"):
            _name = f"{_environment}-{_kind}-singletask{_number}-v0"
            _which = _number.removeprefix("-task") or f"{_facts['default_task']}, the default"
            _made = replace(_any, name=_name, env_kwargs={"name": _name}, rows=_episodes * _rows)
            _summary = f"{_environment}, data of {_environment}-{_kind}-v0, task {_which}; {_made.caveat}"
            _about: Any = {"source": OGBENCH["source"], "cites": ("park2025ogbench",), "summary": _summary}
            tasks.add(_name, _made, family=OGBENCH["families"][_environment.split("-")[0]], **_about)


def from_unit(actions: Any, low: Array, high: Array) -> Array:
    """Actions (..., A) in [-1, 1] as what they stand for in [low, high], in float64."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.asarray(actions * (0.5 * (high - low)) + 0.5 * (high + low))


def to_unit(actions: Any, low: Array, high: Array) -> Array:
    """Actions (..., A) in [low, high] as numbers in [-1, 1], in float64; 0 where both bounds are the same."""
    low, span = np.asarray(low, dtype=np.float64), np.subtract(high, low, dtype=np.float64)
    return np.asarray(np.where(span > 0, 2.0 * (actions - low) / np.where(span > 0, span, 1.0) - 1.0, 0.0))


def fit_action(low: Array, high: Array, dtype: Any = None) -> Callable[[Any], Array]:
    """What makes an action (A,) one of a Box: clipped into its bounds and, if a dtype is given, of that dtype."""
    if dtype is None:
        return lambda action: np.minimum(np.maximum(action, low), high)
    rounded = np.rint if np.issubdtype(dtype, np.integer) else np.asarray
    return lambda action: rounded(np.minimum(np.maximum(action, low), high)).astype(dtype)
