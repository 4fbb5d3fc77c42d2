"""Every kind's suite, and the check of one registered part."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from typing import Any

from dqlab.config.plugins import components_of, load_one
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.errors import ConfigError, DqlabError, error_place, message_of
from dqlab.tools.conformance.algorithms import (
    check_algorithm,
    check_engine,
    check_execution,
    check_kernel,
    check_lr_schedule,
)
from dqlab.tools.conformance.diffusion import (
    check_loss_weighting,
    check_noise_schedule,
    check_prediction,
    check_sampler,
    check_stride,
)
from dqlab.tools.conformance.environments import check_environment
from dqlab.tools.conformance.made import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.tools.conformance.networks import check_activation, check_critic, check_denoiser, check_value_loss
from dqlab.tools.conformance.policies import check_policy, check_selection


def check(kind: str, name: str) -> None:
    """Put one registered part through its kind's conformance suite, and check that it is documented.

    Raises:
        AssertionError: it does not do what its kind must; the message says what is wrong.
    """
    registry = registry_of(kind)
    assert name in registry, f"no {kind} is called '{name}'"
    entry = registry.entry(name)
    assert not _undecorated(entry.item), "its own fields are not read: decorate the class with @dataclass(frozen=True)"
    if kind in CHECKS:
        CHECKS[kind](entry)
    assert entry.summary, "no summary: give it a docstring"
    assert entry.source, "no source: register it with source='paper, equation'"


def _undecorated(item: Any) -> bool:
    """Whether a class adds fields to a dataclass without being one itself."""
    own = vars(item) if inspect.isclass(item) else {}
    return is_dataclass(item) and bool(own.get("__annotations__")) and "__dataclass_fields__" not in own


def check_plugin(name: str) -> None:
    """Put every part that a plugin registers through `check`.

    Args:
        name: the plugin's entry point in the group `dqlab.plugins`, its distribution, or a module.

    Raises:
        AssertionError: parts that fail, one a line with what is wrong; or the plugin registers none.
        ConfigError: there is no such plugin, or it cannot be imported.
    """
    failures = [f"{kind} '{part}': {trouble}" for kind, part, trouble in examine(name) if trouble]
    if failures:
        raise AssertionError(f"{len(failures)} of the parts of '{name}' fail:\n" + "\n".join(failures))


def examine(plugin: str) -> Iterator[tuple[str, str, str]]:
    """Kind, name and trouble of each of a plugin's parts; the trouble is empty where a part conforms.

    Raises:
        AssertionError: the plugin registers nothing.
        ConfigError: there is no such plugin, or it cannot be imported.
    """
    parts = list(components_of(load_one(plugin)))
    if not parts:
        raise AssertionError(f"'{plugin}' registers nothing: does its module import those with the parts?")
    for kind, name, trouble in parts:
        yield kind, name, trouble or _trouble(kind, name)


def _trouble(kind: str, name: str) -> str:
    try:
        check(kind, name)
    except Exception as error:  # a part may fail in any way
        if os.environ.get("DQLAB_DEBUG"):
            traceback.print_exc()
        text = (message_of(error).splitlines() or [""])[0]
        expected = isinstance(error, (AssertionError, DqlabError)) and text
        return text if expected else f"{type(error).__name__}: {text} ({error_place(error)})"
    return ""


def check_resolvable(kind: str, entry: RegistryEntry[Any]) -> None:
    """Its name finds it, and a misspelt name does not."""
    Registry.kinds[kind].get(entry.name)
    try:
        Registry.kinds[kind].get(entry.name + "?")
    except ConfigError:
        return
    raise AssertionError(f"'{entry.name}?' is found in {kind}")


CHECKS: dict[str, Callable[[RegistryEntry[Any]], None]] = {
    "activation": check_activation,
    "noise_schedule": check_noise_schedule,
    "denoiser": check_denoiser,
    "critic": check_critic,
    "value_loss": check_value_loss,
    "sampler": check_sampler,
    "stride": check_stride,
    "prediction": check_prediction,
    "loss_weighting": check_loss_weighting,
    "selection": check_selection,
    "policy": check_policy,
    "algorithm": check_algorithm,
    "kernel": check_kernel,
    "lr_schedule": check_lr_schedule,
    "execution": check_execution,
    "engine": check_engine,
}
NAMES_ONLY = (
    "behaviour",
    "task",
    "physics",
    "goal_law",
    "env_backend",
    "data_source",
    "data_format",
    "reward_transform",
    "offline_rule",
    "early_stop",
    "precision",
)
for _kind in NAMES_ONLY:
    CHECKS[_kind] = partial(check_resolvable, _kind)
__all__ = [
    "BATCH",
    "CHECKS",
    "DIMS",
    "NAMES_ONLY",
    "check",
    "check_environment",
    "check_plugin",
    "examine",
    "make_batch",
    "make_noise",
    "one_noise",
]
