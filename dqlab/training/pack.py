"""A pack: K replicas of one algorithm, trained together; its state, and one update of it.

Every trained network is one matrix (K, P), as are its Adam moments and its targets; a row is a replica.
`Pack.update` is a function of state, batch and noise alone, so weights, batches and noise can be injected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms.base import Algorithm, Batch, Trained
from dqlab.errors import ConfigError, RunError
from dqlab.networks.stacking import Layout, Network
from dqlab.policies.base import Dims
from dqlab.training.adam import adam_step, clip_by_norm

Factor = Callable[[int], float]


def one(step: int) -> float:
    """The factor of a constant learning rate."""
    return 1.0


@dataclass
class PackState:
    """All that changes in training: rows are replicas.

    Attributes:
        parameters, targets: name -> (K, P); targets have the layout of their source.
        moments: name -> Adam's first and second moments, (2, K, P).
        step: updates done.
    """

    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]
    targets: dict[str, Tensor]
    step: int = 0


class Pack:
    """K replicas of an algorithm and the update that trains them.

    Args:
        algorithms: one a replica; they may differ in their float fields (`hyper`) only.
        dims: state and action sizes.
        seeds: one a replica; each seeds its own initial networks.
        learning_rate_factor: step -> factor on every learning rate.
    """

    def __init__(
        self,
        algorithms: Sequence[Algorithm],
        dims: Dims,
        seeds: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        learning_rate_factor: Factor = one,
    ) -> None:
        self.algorithm, self.dims, self.seeds = _shared_structure(algorithms), dims, tuple(seeds)
        self.dtype, self.device = dtype, torch.device(device)
        self.trained: dict[str, Trained] = self.algorithm.trained(dims)
        self._factor = learning_rate_factor
        self.hyper = self._stack_hyper(algorithms)
        replicas = [_initial_networks(self.algorithm, dims, seed) for seed in self.seeds]
        self.layouts = {name: Layout.of(module).to(self.device) for name, module in replicas[0].items()}
        self._sources = {name: name for name in self.layouts}
        self._sources |= {name: target.source for name, target in self.algorithm.targets().items()}
        self.state = self._initial_state(replicas)

    @property
    def replicas(self) -> int:
        """K."""
        return len(self.seeds)

    def _stack_hyper(self, algorithms: Sequence[Algorithm]) -> dict[str, Tensor]:
        rows = [algorithm.hyper() for algorithm in algorithms]
        return {
            name: torch.tensor([row[name] for row in rows], dtype=self.dtype, device=self.device) for name in rows[0]
        }

    def _initial_state(self, replicas: Sequence[Mapping[str, torch.nn.Module]]) -> PackState:
        parameters = {}
        for name, layout in self.layouts.items():
            rows = [layout.flatten(dict(modules[name].named_parameters())) for modules in replicas]
            parameters[name] = torch.stack(rows).detach().to(self.device, self.dtype)
        moments = {name: value.new_zeros(2, *value.shape) for name, value in parameters.items()}
        targets = {name: parameters[target.source].clone() for name, target in self.algorithm.targets().items()}
        return PackState(parameters, moments, targets)

    def load(self, replica: int, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inject weights of one replica.

        Args:
            replica: its row.
            weights: network or target name -> named tensors, with the parameter names of the network's module.
                A target that is not named becomes a copy of its source, if that is named.

        Raises:
            RunError: a network is unknown, or its tensors do not fit.
        """
        if unknown := sorted(set(weights) - set(self._sources)):
            known = ", ".join(self._sources)
            raise RunError(f"These are no weights of this algorithm: it has {known}; they have {', '.join(unknown)}.")
        for name, values in weights.items():
            row = self.layouts[self._sources[name]].flatten(values)
            self._rows(name)[replica] = row.to(self.device, self.dtype)
        for name, target in self.algorithm.targets().items():
            if name not in weights and target.source in weights:
                self.state.targets[name][replica] = self.state.parameters[target.source][replica]

    def weights(self, replica: int) -> dict[str, dict[str, Tensor]]:
        """Named parameters of every network and target of one replica, as copies."""
        names = [*self.state.parameters, *self.state.targets]
        return {
            name: {
                key: value.clone()
                for key, value in self.layouts[self._sources[name]].unflatten(self._rows(name)[replica]).items()
            }
            for name in names
        }

    def _rows(self, name: str) -> Tensor:
        return self.state.parameters[name] if name in self.state.parameters else self.state.targets[name]

    def update(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One update of every replica.

        Args:
            batch: fields with a leading replica axis: state (K, B, S), reward (K, B), ...
            noise: what `algorithm.update_noise` asks for, with a leading replica axis.

        Returns:
            The losses' scalars, name -> (K,), on the device.
        """
        info: dict[str, Tensor] = {}
        for name, trained in self.trained.items():
            gradient, losses = self._gradient(name, trained, batch, noise)
            self._descend(name, trained, gradient)
            info |= losses
        self._move_targets()
        self.state.step += 1
        return info

    def _gradient(
        self, name: str, trained: Trained, batch: Batch, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rows = {**self.state.parameters, **self.state.targets}
        rows[name] = rows[name].detach().requires_grad_()
        loss, info = self.map(trained.loss, rows, batch, dict(noise), self.hyper)
        (gradient,) = torch.autograd.grad(loss.sum(), rows[name])
        return gradient, info

    def _descend(self, name: str, trained: Trained, gradient: Tensor) -> None:
        if trained.grad_norm is not None:
            gradient = clip_by_norm(gradient, self.hyper[trained.grad_norm])
        rate = self.hyper[trained.learning_rate] * self._factor(self.state.step)
        adam_step(self.state.parameters[name], self.state.moments[name], gradient, rate, self.state.step + 1)

    def _move_targets(self) -> None:
        for name, target in self.algorithm.targets().items():
            if target.moves(self.state.step):
                rate = self.hyper[target.rate].unsqueeze(-1)
                self.state.targets[name].lerp_(self.state.parameters[target.source], rate)

    def map(self, function: Callable[..., Any], rows: Mapping[str, Tensor], *args: Any) -> Any:
        """Run `function(nets, *args)`, written for one replica, on every replica.

        One replica is run as it is, several under `vmap`: the same numbers, without vmap's overhead.
        """

        def single(rows: Mapping[str, Tensor], *args: Any) -> Any:
            nets = {name: self.layouts[self._sources[name]].bind(row) for name, row in rows.items()}
            return function(nets, *args)

        if self.replicas == 1:
            alone = _tree(partial(torch.squeeze, dim=0), (rows, *args))
            return _tree(partial(torch.unsqueeze, dim=0), single(*alone))
        return torch.vmap(single)(dict(rows), *args)

    def act(self, state: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Actions (K, B, A) of every replica for its states (K, B, S)."""

        def act(nets: dict[str, Network], state: Tensor, noise: dict[str, Tensor]) -> Tensor:
            return self.algorithm.act(self.dims, nets, state, noise)

        with torch.no_grad():
            actions: Tensor = self.map(act, {**self.state.parameters, **self.state.targets}, state, dict(noise))
        return actions


def _tree(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in nested batches, tuples and dicts."""
    if isinstance(value, Batch):
        return Batch(*(function(item) for item in value))
    if isinstance(value, tuple):
        return tuple(_tree(function, item) for item in value)
    if isinstance(value, Mapping):
        return {key: _tree(function, item) for key, item in value.items()}
    return function(value)


def _initial_networks(algorithm: Algorithm, dims: Dims, seed: int) -> dict[str, torch.nn.Module]:
    """One replica's networks, initialised by PyTorch's defaults from its own seed, always on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return algorithm.build(dims)


def _shared_structure(algorithms: Sequence[Algorithm]) -> Algorithm:
    first = algorithms[0]
    for other in algorithms[1:]:
        if type(other) is not type(first) or replace(other, **first.hyper()) != first:  # type: ignore[type-var]
            raise ConfigError("Replicas of one pack may differ in scalar hyper-parameters only.")
    return first
