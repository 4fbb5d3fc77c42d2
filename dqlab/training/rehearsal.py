"""Made-up numbers of the right shapes: to try the parts of an experiment before any data is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms.base import Algorithm
from dqlab.data.batch import Batch
from dqlab.errors import ConfigError
from dqlab.noise import NoiseSpec, draw_noise, generator_for
from dqlab.policies.base import Dims
from dqlab.training.pack import Pack


def made_up_noise(pack: Pack, specs: Mapping[str, NoiseSpec]) -> dict[str, Tensor]:
    """A draw of what `specs` ask for, for a pack of one replica."""
    return draw_noise(specs, generator_for(0, "rehearsal", 0, pack.device), pack.dtype, count=1)


def made_up_update(pack: Pack, rows: int) -> tuple[Batch, dict[str, Tensor]]:
    """A batch of zeros and the noise of one update, for a pack of one replica."""
    zeros = torch.zeros(1, rows, dtype=pack.dtype, device=pack.device)
    state, action = (zeros.unsqueeze(-1).expand(1, rows, size) for size in (pack.dims.state, pack.dims.action))
    noise = made_up_noise(pack, pack.algorithm.update_noise(pack.dims, rows))
    return Batch(state, action, zeros, state, zeros), noise


def smoke_test(pack: Pack) -> None:
    """Update once and act once, with one replica, so that mistakes in the wiring show."""
    batch, noise = made_up_update(pack, 2)
    reported, wanted = pack.update(batch, noise), pack.algorithm.selection_loss
    if wanted not in reported:
        name = type(pack.algorithm).__name__
        raise ConfigError(f"{name}.selection_loss is '{wanted}', but its losses report {', '.join(reported)}.")
    pack.act(batch.state, made_up_noise(pack, pack.algorithm.act_noise(pack.dims, 2)))


def shared_hyperparameters(algorithm: Algorithm, dims: Dims) -> set[str]:
    """Scalar hyper-parameters that an update, an action or a proposal reads from the algorithm, not from `hyper`."""
    watched, read = _watched(algorithm)
    pack = Pack([watched], dims, [0])
    smoke_test(pack)
    state = torch.zeros(1, 2, dims.state, dtype=pack.dtype)
    pack.sample_action(state, made_up_noise(pack, watched.sample_action_noise(dims, 2)))
    return read & set(algorithm.hyper())


def _watched(algorithm: Algorithm) -> tuple[Algorithm, set[str]]:
    """A copy of an algorithm, and the names of what is read from it, which fill as it is used."""
    kind: Any = type(algorithm)
    read: set[str] = set()

    def note(self: Any, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(self, name)

    methods = {"__getattribute__": note, "hyper": lambda self: algorithm.hyper()}
    copy = object.__new__(type(kind)(kind.__name__, (kind,), methods))
    for field in fields(kind):  # not what is cached: it was made from fields
        object.__setattr__(copy, field.name, getattr(algorithm, field.name))
    return copy, read
