"""A pack: K replicas of one algorithm, trained together; its state, and one update of it.

Every trained network is one matrix (K, P), as are its Adam moments and its targets; a row is a replica. An update is a
function of state, batch and noise alone: `Pack.update`, or, of tensors for a program, `Pack.advance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.base import Loss, TrainedNetwork
from dqlab.data import Batch
from dqlab.errors import ConfigError, RunError, nearest_of_few
from dqlab.networks import Layout
from dqlab.networks.precision import FULL, Precision
from dqlab.noise import Noise
from dqlab.policies.base import Dims
from dqlab.training.execution.program import TensorTree, concatenate_nested, to_device, tree_map
from dqlab.training.optimiser import Factor, Moments, NetworkOptimiser, clip_together


@dataclass
class PackState:
    """All that changes in training, by name: matrices (K, P) whose rows are replicas, of `moments` Adam's first and
    second, of `targets` in the layout of their source; and the number of updates done.
    """

    parameters: dict[str, Tensor]
    moments: dict[str, Moments]
    targets: dict[str, Tensor]
    step: int = 0


class Pack:
    """K replicas of an algorithm and the update that trains them.

    Args:
        algorithms: one a replica; they may differ in their float fields (`hyper`) only.
        seeds: one a replica; each seeds its own initial networks.
        learning_rate_factor: `(step, first, last) -> factor` on the learning rate of a network with that phase.
        precision: of the networks' matrix products.
        width: replicas that are computed together on a GPU, where all cost little more than one, K at most; on a CPU,
            where it gains nothing, they are computed one by one unless it is given.
    """

    def __init__(
        self,
        algorithms: Sequence[Algorithm],
        dims: Dims,
        seeds: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        learning_rate_factor: Factor = lambda step, first, last: 1.0,
        precision: Precision = FULL,
        width: int | None = None,
    ) -> None:
        self.algorithm, self.dims, self.seeds = algorithms[0], dims, tuple(seeds)
        for other in algorithms[1:]:
            same = type(other) is type(self.algorithm)
            if not same or replace(other, **self.algorithm.hyper()) != self.algorithm:  # type: ignore[type-var]
                raise ConfigError("Replicas of one pack may differ in scalar hyper-parameters only.")
        self.dtype, self.device = dtype, torch.device(device)
        self.trained: dict[str, TrainedNetwork] = self.algorithm.trained(dims)
        self._factor = learning_rate_factor
        self.width = width or (1 if self.device.type == "cpu" else len(self.seeds))
        rows = [algorithm.hyper() for algorithm in algorithms]
        self._scalars = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        self.hyper = {name: torch.tensor(each, dtype=dtype, device=self.device) for name, each in self._scalars.items()}
        replicas = []
        for seed in self.seeds:  # by PyTorch's defaults, each from its own seed, always on the CPU
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                replicas.append(self.algorithm.build(dims))
        self.layouts = {name: Layout.of(module, precision).to(self.device) for name, module in replicas[0].items()}
        self._check_names()
        self._optimisers: dict[str, NetworkOptimiser] = {}
        for name, trained in self.trained.items():
            members = self.layouts[name].members if trained.clips_members else None
            self._optimisers[name] = NetworkOptimiser(name, trained, members[1] if members else 1)
        self.layouts |= {name: self.layouts[target.source] for name, target in self.algorithm.targets().items()}
        self._check_phases()
        self.control_names = list(self._controls_at(0))
        parameters = {}
        for name in replicas[0]:
            each = [self.layouts[name].flatten(dict(modules[name].named_parameters())) for modules in replicas]
            parameters[name] = torch.stack(each).detach().to(self.device, self.dtype)
        moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in parameters.items()}
        targets = {name: parameters[target.source].clone() for name, target in self.algorithm.targets().items()}
        self._let_follow({"parameters": parameters, "targets": targets}, 0)
        self.state = PackState(parameters, moments, targets)

    @property
    def replicas(self) -> int:
        """K."""
        return len(self.seeds)

    def load(self, replica: int, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inject weights of one replica: of networks or targets, as tensors by their names in the network's module.

        A target that is not named becomes a copy of its source, if that is named; a RunError where something is unknown
        or does not fit.
        """
        if unknown := sorted(set(weights) - set(self.layouts)):
            known = ", ".join(self.layouts)
            raise RunError(f"These are no weights of this algorithm: it has {known}; they have {', '.join(unknown)}.")
        rows = {**self.state.parameters, **self.state.targets}
        for name, values in weights.items():
            rows[name][replica] = self.layouts[name].flatten(values).to(self.device, self.dtype)
        for name, target in self.algorithm.targets().items():
            if name not in weights and target.source in weights:
                rows[name][replica] = rows[target.source][replica]

    def weights(self, replica: int) -> dict[str, dict[str, Tensor]]:
        """Named parameters of every network and target of one replica, as copies."""
        rows = {**self.state.parameters, **self.state.targets}
        named = {name: self.layouts[name].unflatten(row[replica]) for name, row in rows.items()}
        return tree_map(torch.clone, named)  # type: ignore[no-any-return]

    def update(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One update of every replica; the losses' scalars, name -> (K,), on the device.

        Batch and noise (what `algorithm.update_noise` asks for) have a leading replica axis: state (K, B, S), ...
        """
        step = self.state.step
        controls = self.controls(range(step, step + 1))[:, 0]
        info: dict[str, Tensor] = self._by_group(partial(self.advance, step=step), batch, dict(noise), controls)
        self.state.step += 1
        return info

    def _by_group(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(tensors, *args)`, written for a group of replicas, on every one of them, side by side."""
        own = [(self.tensors(rows), *tree_map(itemgetter(rows), args)) for rows in self.groups()]
        return concatenate_nested([function(*each) for each in own])

    @property
    def phases(self) -> list[int]:
        """Steps from which on other networks are trained, ascending, 0 the first."""
        edges = {edge for trained in self.trained.values() for edge in (trained.first, trained.last)}
        return sorted({0} | {edge for edge in edges if edge is not None})

    def next_phase(self, step: int) -> int | None:
        """The first step after this one from which on other networks are trained, if there is one."""
        return next((edge for edge in self.phases if edge > step), None)

    def stretches(self, steps: range) -> list[range]:
        """The same steps, cut where a phase ends."""
        edges = [steps.start, *(edge for edge in self.phases if edge in steps[1:]), steps.stop]
        return [range(*each) for each in pairwise(edges)]

    def trained_at(self, step: int) -> list[str]:
        """Names of the networks whose phase a step lies in, in the order in which they are trained."""
        return [name for name, trained in self.trained.items() if trained.in_phase(step)]

    def updating_at(self, step: int) -> tuple[str, ...]:
        """Names of those of `trained_at` that do not rest at this step."""
        return tuple(name for name in self.trained_at(step) if self.trained[name].updates_at(step))

    def kinds(self, steps: range) -> dict[int, int]:
        """The first step of each different update that there is among these steps -> how many are like it."""
        counts: dict[int, int] = {}
        for stretch in self.stretches(steps):
            periods = {self.trained[name].every for name in self.trained_at(stretch.start)}
            for due in _subsets(periods):
                period, rest = math.lcm(*due), periods - {*due}
                # how many steps end all these periods, less those that end others, too: inclusion and exclusion
                ends = [((-1) ** len(more), math.lcm(period, *more)) for more in _subsets(rest)]
                if count := sum(sign * (stretch.stop // each - stretch.start // each) for sign, each in ends):
                    following = range(stretch.start // period * period + period, stretch.stop + 1, period)
                    first = next(end for end in following if all(end % other for other in rest)) - 1
                    counts[first] = count
        return dict(sorted(counts.items()))

    def _check_names(self) -> None:
        """A ConfigError unless networks and hyper-parameters that the algorithm names are there."""
        named: list[tuple[str, str, Iterable[str]]] = [("trains", name, self.layouts) for name in self.trained]
        named += [("has a target of", target.source, self.layouts) for target in self.algorithm.targets().values()]
        for each in self.trained.values():
            scalars = filter(None, (each.learning_rate, each.grad_norm, each.weight_decay))
            named += [("has no hyper-parameter", name, self._scalars) for name in scalars]
        for what, name, known in named:
            if name not in known:
                there = "`build` makes no network of that name. " * (known is self.layouts)
                near = nearest_of_few(name, known)
                raise ConfigError(f"{type(self.algorithm).__name__} {what} '{name}'. {there}{near}")

    def _check_phases(self) -> None:
        """A ConfigError unless networks are trained in every phase, and what they start as fits."""
        kind = type(self.algorithm).__name__
        for step in self.phases:
            if not self.trained_at(step):
                raise ConfigError(f"{kind} trains no network at step {step:,}.")
        for name, trained in self.trained.items():
            other = self.layouts.get(trained.starts_as or name)
            if trained.last is not None and trained.last <= trained.first:
                raise ConfigError(f"{kind} never trains '{name}': its phase ends before it begins.")
            if other is None or other.shapes != self.layouts[name].shapes:
                theirs = f"'{trained.starts_as}', which is no network or target of the same layout"
                raise ConfigError(f"{kind} has '{name}' start as {theirs}.")

    def groups(self) -> list[slice]:
        """The rows that are computed together, in groups as even as can be."""
        count = math.ceil(self.replicas / self.width)
        edges = [round(index * self.replicas / count) for index in range(count + 1)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def tensors(self, rows: slice) -> TensorTree:
        """What an update of those replicas reads and changes: views of the state, and their scalars."""
        state = {name: getattr(self.state, name) for name in ("parameters", "moments", "targets")}
        return tree_map(itemgetter(rows), {**state, "hyper": self.hyper})  # type: ignore[no-any-return]

    def controls(self, steps: range) -> Tensor:
        """What depends on the step's number, (K, steps, C) on the device, C in the order of `control_names`.

        As numbers in a tensor they are data, not part of the program.
        """
        table = np.stack([np.stack(list(self._controls_at(step).values()), axis=-1) for step in steps], axis=1)
        return to_device(self.device, torch.from_numpy(table).to(self.dtype))

    def _controls_at(self, step: int) -> dict[str, NDArray[Any]]:
        """The controls of each trained network's optimiser; and each target's rate, 0 at a step where it rests."""
        found: dict[str, NDArray[Any]] = {}
        for optimiser in self._optimisers.values():
            found |= optimiser.controls(step, self._scalars, self._factor)
        targets = self.algorithm.targets().items()
        return found | {name: self._scalars[each.rate] * each.updates_at(step) for name, each in targets}

    def advance(
        self, tensors: TensorTree, batch: Batch, noise: Noise, controls: Tensor, step: int = 0
    ) -> dict[str, Tensor]:
        """One update of some replicas, in place, as a function of tensors alone; the losses' scalars, name -> (k,).

        `tensors` are as the method gives them; batch, noise, and controls (k, C), are theirs. `step` is any at which
        the same networks are trained, and rest: the update is the same function at all of them.
        """
        control = dict(zip(self.control_names, controls.unbind(-1), strict=True))
        trains, updating, parameters = self.trained_at(step), self.updating_at(step), tensors["parameters"]
        targets = {name: each for name, each in self.algorithm.targets().items() if each.source in trains}
        before = {target.source: parameters[target.source].clone() for target in targets.values() if target.lags}
        info: dict[str, Tensor] = {}
        for joined in self._together(trains):
            names, gradients = [name for name in joined if name in updating or self.trained[name].coasts], {}
            for name in names:
                if name not in updating:
                    gradients[name] = torch.zeros_like(parameters[name])
                    continue
                matrix, loss, losses = self.loss(name, tensors, batch, noise)
                (gradients[name],) = torch.autograd.grad(loss, matrix)
                info |= losses
            if names and self.algorithm.joint_grad_norm:
                gradients = clip_together(gradients, tensors["hyper"]["grad_norm"])
            for name, gradient in gradients.items():
                self._optimisers[name].step(tensors, gradient, control, clip=not self.algorithm.joint_grad_norm)
        for name, target in targets.items():
            source = (before if target.lags else parameters)[target.source]
            tensors["targets"][name].lerp_(source, control[name].unsqueeze(-1))
        self._let_follow(tensors, step)
        return info

    def _together(self, trains: Sequence[str]) -> list[list[str]]:
        """These networks in the order of their steps; those in one list take theirs by gradients found before."""
        groups: list[list[str]] = []
        for name in trains:
            joins = self.algorithm.joint_update or self.trained[name].with_previous
            groups = [*groups[:-1], [*groups[-1], name]] if groups and joins else [*groups, [name]]
        return groups

    def _let_follow(self, tensors: TensorTree, step: int) -> None:
        """Copy to networks whose phase has not begun, and to their targets, what they start as, in place."""
        both = {**tensors["parameters"], **tensors["targets"]}
        for name, trained in self.trained.items():
            if trained.starts_as is not None and step < trained.first:
                own = [target for target, each in self.algorithm.targets().items() if each.source == name]
                for copied in (name, *own):
                    both[copied].copy_(both[trained.starts_as])

    def loss(
        self, name: str, tensors: TensorTree, batch: Batch, noise: Noise
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss of one network of some replicas: its matrix as a leaf, the sum over them, and the scalars."""
        rows = {**tensors["parameters"], **tensors["targets"]}
        rows[name] = rows[name].detach().requires_grad_()

        def scalars(*args: Any) -> Loss:
            loss, info = self.trained[name].loss(*args)
            for what, value in {f"the loss of '{name}'": loss, **info}.items():
                if not isinstance(value, Tensor) or value.ndim:  # a batch of losses would be summed in silence
                    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
                    found = f"of shape {shape}: take its mean" if shape else repr(value)
                    raise ConfigError(f"Training '{name}': {what} must be a scalar tensor, not {found}.")
            return loss, tree_map(torch.detach, info)

        loss, info = self.map(scalars, rows, batch, noise, tensors["hyper"])
        return rows[name], loss.sum(), info

    def losses(self, rows: slice, batch: Batch, noise: Noise, trains: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Losses' scalars of some replicas, name -> (k,), of `trains` or all networks, and gradients; all stays."""
        info: dict[str, Tensor] = {}
        for name in self.trained if trains is None else trains:
            matrix, loss, losses = self.loss(name, self.tensors(rows), batch, noise)
            torch.autograd.grad(loss, matrix)
            info |= losses
        return info

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def map(self, function: Callable[..., Any], rows: Mapping[str, Tensor], *args: Any) -> Any:
        """`function(nets, *args)`, written for one replica, on every one: one as it is, several under `vmap`."""

        def single(rows: Mapping[str, Tensor], *args: Any) -> Any:
            nets = {name: self.layouts[name].bind(row) for name, row in rows.items()}
            return function(nets, *args)

        if len(next(iter(rows.values()))) == 1:
            alone = tree_map(partial(torch.squeeze, dim=0), (dict(rows), *args))
            return tree_map(partial(torch.unsqueeze, dim=0), single(*alone))
        given = (dict(rows), *args)
        return torch.vmap(single, in_dims=tree_map(lambda _: 0, given))(*given)

    def act(self, state: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Actions (K, B, A) of every replica for its states (K, B, S), eagerly; `SamplerCore` does so by any mode."""
        return self._by_group(self.choose_actions, state, dict(noise))  # type: ignore[no-any-return]

    def sample_action(self, state: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Actions (K, B, A) that every replica's policy draws by itself for states (K, B, S), unranked."""
        return self.choose_actions(self.tensors(slice(None)), state, dict(noise), self.algorithm.sample_action)

    def choose_actions(
        self, tensors: TensorTree, state: Tensor, noise: Noise, how: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Actions (k, B, A) of some replicas, as a function of tensors alone: those that it acts with, by default."""
        nets = {**tensors["parameters"], **tensors["targets"]}
        with torch.no_grad():
            actions: Tensor = self.map(partial(how or self.algorithm.act, self.dims), nets, state, noise)
        return actions


def _subsets(values: Collection[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(values, size) for size in range(len(values) + 1))
