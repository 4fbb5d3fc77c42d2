"""A policy as one module of PyTorch's: states and noise in, actions in the environment's units out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dqlab.errors import ConfigError, first_line
from dqlab.networks.stacking import Network
from dqlab.noise import LAWS as DRAWN
from dqlab.noise import Noise, draw_noise, generator_for
from dqlab.training.execution.modes import Compile
from dqlab.training.execution.program import Program, TensorTree, tree_map

if TYPE_CHECKING:
    from dqlab.runs.policy import LoadedPolicy


LAWS: Mapping[str, Any] = {
    **DRAWN,
    "gumbel": lambda shape, dtype, _: -(-torch.rand(shape, dtype=dtype).clamp(min=1e-20).log()).log(),
    "integers": lambda shape, dtype, high: (torch.rand(shape, dtype=dtype) * high).floor().clamp(max=high - 1).long(),
}  # these two as operations that programs can hold


class PolicyModule(nn.Module):
    """Actions (B, A) in the environment's units for raw states (B, S) and noise, by a policy of `load_policy`.

    Where the policy draws noise for B states times m candidates in one dimension, the module takes (..., m, B, ...).
    Where it is given no noise, it draws its own.
    """

    def __init__(self, policy: LoadedPolicy) -> None:
        super().__init__()
        pack = policy.pack
        self._algorithm, self._dims, self.dtype = pack.algorithm, pack.dims, pack.dtype
        self._layouts = pack.layouts
        self._places: dict[str, dict[str, str]] = {}
        for network, named in pack.weights(0).items():
            self._places[network] = {name: f"{network}__{name.replace('.', '__')}" for name in named}
            for name, value in named.items():
                self.register_buffer(self._places[network][name], value)
        self.state_mean, self.state_std = nn.Buffer(policy.state_mean), nn.Buffer(policy.state_std)
        self.low = nn.Buffer(torch.from_numpy(policy.action_low).double())
        self.high = nn.Buffer(torch.from_numpy(policy.action_high).double())
        self.specs = pack.algorithm.act_noise(pack.dims, 1)
        twice = pack.algorithm.act_noise(pack.dims, 2)
        self.batch_dims: dict[str, int | None] = {}  # which counts states; None where noise does not depend on them
        for name, spec in self.specs.items():
            pairs = zip(spec.shape, twice[name].shape, strict=True)
            self.batch_dims[name] = next((place for place, (one, two) in enumerate(pairs) if one != two), None)

    def shapes(self, count: int | str = "B") -> dict[str, list[Any]]:
        """What noise it takes for so many states."""
        found = {name: list[Any](spec.shape) for name, spec in self.specs.items()}
        for name, place in self.batch_dims.items():
            if place is not None:
                found[name].insert(place + 1, count)
        return found

    def flat(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise as the policy draws it, of what the module takes."""
        dims = self.batch_dims
        return {key: value if (at := dims[key]) is None else value.flatten(at, at + 1) for key, value in noise.items()}

    def example_inputs(self, count: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
        """States of zeros, so many, and noise for them."""
        shapes = self.shapes(count)
        specs = {name: replace(spec, shape=tuple(shapes[name])) for name, spec in self.specs.items()}
        states = torch.zeros(count, self._dims.state, dtype=self.dtype)
        return states, draw_noise(specs, generator_for(0, "export", 0), self.dtype)

    def forward(self, state: Tensor, noise: Noise | None = None) -> Tensor:
        if noise is None:
            shapes, specs = self.shapes(state.shape[0]), self.specs
            noise = {key: LAWS[spec.law](shapes[key], self.dtype, spec.parameter) for key, spec in specs.items()}
        seen = state.double()
        if len(self.state_mean):
            seen = (seen - self.state_mean) / self.state_std
        nets = {}
        for name, places in self._places.items():
            weights = {own: getattr(self, place) for own, place in places.items()}
            nets[name] = Network(self._layouts[name].module, weights, self._layouts[name].precision)
        unit = self._algorithm.act(self._dims, nets, seen.to(self.dtype), self.flat(noise)).double()
        action = unit * (0.5 * (self.high - self.low)) + 0.5 * (self.high + self.low)
        return torch.maximum(torch.minimum(action, self.high), self.low).to(self.dtype)


def compiled_policy(policy: LoadedPolicy) -> Callable[[Tensor, Noise], Tensor]:
    """The same as compiled code: actions (B, A) in the environment's units for raw states (B, S) and a policy's noise.

    The policy's weights are those of now. The first call takes some ten seconds, another number of states once more;
    compiled code is kept between processes. A ConfigError, of a call perhaps, where that cannot be.
    """
    mode, name = Compile().resolve(policy.device), policy.experiment.algorithm
    with policy.ready(), torch.no_grad():
        module = PolicyModule(policy).to(policy.device)
        inputs = module.example_inputs()
        module(*tree_map(lambda tensor: tensor.to(policy.device), inputs))  # constants are made at first use

    def run(tensors: TensorTree) -> Tensor:
        with torch.no_grad():
            actions: Tensor = module(tensors["state"], tensors["noise"])
        return actions

    def act(states: Tensor, noise: Noise) -> Tensor:
        shapes = module.shapes(len(states))
        grown = {name: value.reshape(shapes[name]) for name, value in noise.items()}
        try:
            return mode(Program(run, {"state": states, "noise": grown}))()  # type: ignore[no-any-return]
        except ConfigError as error:
            cause = first_line(error.__cause__ or error)
            raise ConfigError(f"'{name}' with these components cannot be compiled: {cause}") from error

    return act
