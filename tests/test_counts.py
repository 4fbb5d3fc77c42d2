"""Sizes and counts: every whole-number parameter of every part refuses what means nothing, by its name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dqlab.config.fields import NonNegativeInt, PositiveInt
from dqlab.config.gin_files import CONFIGURABLE
from dqlab.config.gin_state import configurables
from dqlab.config.registry import fill_registries
from dqlab.data.download import no_progress
from dqlab.envs.bandit import BANDIT
from dqlab.errors import ConfigError

ARGUMENTS: dict[str, Any] = {
    "n_members": 2,
    "state_dim": 5,
    "action_dim": 3,
    "losses": [1.0],
    "step": 1,
    "steps": 10,
    "eval_every": 5,
}
ARGUMENTS |= {"task": BANDIT, "progress": no_progress, "x": torch.ones(2), "u": torch.ones(2)}
BESIDE: dict[str, dict[str, Any]] = {
    "Collection": {"task": "hopper-medium-v2"},
    "Experiment": {"task": "hopper-medium-v2"},
    "Grid": {"axes": {"eta": {"DiffusionQL.eta": (1.0, 2.0)}}},
    "gymnasium_task": {"env_id": "Pendulum-v1", "min_score": 0.0, "max_score": 1.0},
}
"""What else a part wants to be made."""
ZERO = {
    "DAC.ema_start",
    "DiffusionQL.ema_start",
    "EDP.ema_start",
    "Training.top_k",
    "TQC.n_dropped",
    "LocalEngine.retries",
    "RayEngine.retries",
}
ZERO |= {"SlurmEngine.retries", "BDPO.warmup_steps", "DTQL.pretrain_steps"}
"""Where none is an answer though the default is some."""


KINDS = ("int", "<class 'int'>", "PositiveInt", "NonNegativeInt", str(PositiveInt), str(NonNegativeInt))


def whole_numbers() -> Iterator[tuple[str, str]]:
    """Selector and parameter of everything that gin can set to a whole number."""
    fill_registries()
    for module in CONFIGURABLE:
        importlib.import_module(module)
    for selector, item in configurables().items():
        if selector.startswith("gin.") or not item.__module__.startswith("dqlab."):
            continue
        for parameter in inspect.signature(item).parameters.values():
            if str(parameter.annotation) in KINDS and isinstance(parameter.default, int):
                yield selector, parameter.name


EACH = sorted(whole_numbers())


def make(selector: str, **given: Any) -> Any:
    wrapped = configurables()[selector]
    parameters = inspect.signature(wrapped).parameters
    needed = {name: ARGUMENTS[name] for name, p in parameters.items() if p.default is p.empty and name in ARGUMENTS}
    return wrapped(**{**needed, **BESIDE.get(wrapped.__name__, {}), **given})


@pytest.mark.parametrize(("selector", "parameter"), EACH, ids=[".".join(each) for each in EACH])
def test_sizes_and_counts(selector: str, parameter: str) -> None:
    wrapped = configurables()[selector]
    default, name = inspect.signature(wrapped).parameters[parameter].default, f"{wrapped.__name__}.{parameter}"
    make(selector, **{parameter: default})
    wrong = [-1, 0] if default > 0 and name not in ZERO else [-1]
    for value in [*wrong, True, 2.5, "many"]:
        with pytest.raises(ConfigError, match=re.escape(parameter)):
            make(selector, **{parameter: value})
