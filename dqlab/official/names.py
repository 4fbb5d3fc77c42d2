"""The official code's names of weights, and dqlab's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

Weights = dict[str, Tensor]
Rules = list[tuple[re.Pattern[str], str]]

# official name -> dqlab name; the official time_mlp counts the sinusoidal embedding as layer 0
ACTOR_NAMES: Rules = [
    (re.compile(r"^(?:model\.)?time_mlp\.1\."), "time_mlp.0."),
    (re.compile(r"^(?:model\.)?time_mlp\.3\."), "time_mlp.2."),
    (re.compile(r"^(?:model\.)?(mid_layer\.\d+|final_layer)\."), r"\1."),
]
CRITIC_NAMES: Rules = [
    (re.compile(r"^q1_model\."), "members.0.layers."),
    (re.compile(r"^q2_model\."), "members.1.layers."),
]
WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod)\.")
"""What DataParallel and torch.compile put before the names of what they wrap."""


def bare(name: str) -> str:
    """A name without what wrappers put before it."""
    return WRAPPERS.sub("", name)


def renamed(name: str, rules: Rules) -> str:
    """dqlab's name of an official weight; empty where no rule matches."""
    return next((pattern.sub(new, name) for pattern, new in rules if pattern.match(name)), "")


def _rename(values: Mapping[str, Tensor], rules: Rules) -> Weights:
    """Translate the names that a rule matches; other entries (schedule buffers) are dropped."""
    return {renamed(name, rules): value for name, value in values.items() if renamed(name, rules)}


def actor_weights(official: Mapping[str, Tensor]) -> Weights:
    """An official actor's state dict under the parameter names of `MLPDenoiser`."""
    return _rename(official, ACTOR_NAMES)


def critic_weights(official: Mapping[str, Tensor]) -> Weights:
    """An official critic's state dict under the parameter names of `TwinCritic`."""
    return _rename(official, CRITIC_NAMES)
