"""Sizes and counts: every whole-number parameter of every part refuses what means nothing, by its name."""

from __future__ import annotations

import importlib
import inspect
import re
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

ARGUMENTS: dict[str, Any] = {"n_members": 2, "state_dim": 5, "action_dim": 3, "losses": [1.0], "step": 1, "steps": 10}
ARGUMENTS |= {"task": BANDIT, "progress": no_progress, "x": torch.ones(2), "u": torch.ones(2), "eval_every": 5}
BESIDE: dict[str, dict[str, Any]] = {
    "Collection": {"task": "hopper-medium-v2"},
    "Experiment": {"task": "hopper-medium-v2"},
    "Grid": {"axes": {"eta": {"DiffusionQL.eta": (1.0, 2.0)}}},
    "gymnasium_task": {"env_id": "Pendulum-v1", "min_score": 0.0, "max_score": 1.0},
}
"""What else a part wants to be made."""
ZERO = {"DAC.ema_start", "DiffusionQL.ema_start", "EDP.ema_start", "Training.top_k", "TQC.n_dropped"}
ZERO |= {"LocalEngine.retries", "RayEngine.retries", "SlurmEngine.retries", "BDPO.warmup_steps", "DTQL.pretrain_steps"}
"""Where none is an answer though the default is some."""
KINDS = ("int", "<class 'int'>", "PositiveInt", "NonNegativeInt", str(PositiveInt), str(NonNegativeInt))

fill_registries()
for module in CONFIGURABLE:
    importlib.import_module(module)
EACH = sorted(
    (selector, parameter.name)
    for selector, item in configurables().items()
    if not selector.startswith("gin.") and item.__module__.startswith("dqlab.")
    for parameter in inspect.signature(item).parameters.values()
    if str(parameter.annotation) in KINDS and isinstance(parameter.default, int)
)
"""Selector and parameter of everything that gin can set to a whole number."""


@pytest.mark.parametrize(("selector", "parameter"), EACH, ids=map(".".join, EACH))
def test_sizes_and_counts(selector: str, parameter: str) -> None:
    make = configurables()[selector]
    parameters = inspect.signature(make).parameters
    needed = {name: ARGUMENTS[name] for name, p in parameters.items() if p.default is p.empty and name in ARGUMENTS}
    needed |= BESIDE.get(make.__name__, {})
    default, name = parameters[parameter].default, f"{make.__name__}.{parameter}"
    make(**{**needed, parameter: default})
    wrong = [-1, 0] if default > 0 and name not in ZERO else [-1]
    for value in [*wrong, True, 2.5, "many"]:
        with pytest.raises(ConfigError, match=re.escape(parameter)):
            make(**{**needed, parameter: value})
