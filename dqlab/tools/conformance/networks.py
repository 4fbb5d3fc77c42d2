"""What networks must do: activations, denoisers and critics; and losses of state values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dqlab.config.registry import RegistryEntry
from dqlab.networks import Layout
from dqlab.networks.ensembles import CriticEnsemble, ensemble_of
from dqlab.networks.stacking import Network
from dqlab.networks.values import ValueLoss
from dqlab.noise import Noise
from dqlab.tools.conformance.made import (
    BATCH,
    DIMS,
    check_copies,
    check_independent_rows,
    check_module,
    check_pure,
    check_shape,
    check_traceable,
    make_batch,
    one_noise,
    with_moved_parameters,
)


def check_activation(entry: RegistryEntry[Callable[[], nn.Module]]) -> None:
    """Numbers one by one, any shape and floating type, not linear; value and gradient finite."""
    layer = entry.make()()
    x = torch.linspace(-5, 5, 40, dtype=torch.float64).view(8, 5)
    out = _check_elementwise(layer, x, torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4]))
    assert not torch.allclose(layer(x + 1) - out, out - layer(x - 1)), "it is linear"
    assert torch.allclose(torch.vmap(layer)(x), out), "stacked differs from alone"
    check_module(nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 2)).double(), Network.__call__, x)


def check_value_loss(entry: RegistryEntry[ValueLoss]) -> None:
    """A number for each u = Q - V, convex, least at u = 0; value and gradient finite."""
    u = torch.linspace(-3, 3, 61, dtype=torch.float64)
    values = _check_elementwise(entry.make(), u, torch.tensor([-1e3, -1.0, 1.0, 1e3]))
    assert bool((values >= values[30] - 1e-12).all()), "it is not least where V is Q"
    assert bool((values[:-2] + values[2:] >= 2 * values[1:-1] - 1e-12).all()), "it is not convex"


def _check_elementwise(function: Callable[[Tensor], Tensor], x: Tensor, far: Tensor) -> Tensor:
    """Numbers one by one, in the shape and type of x; at those that are far, value and gradient are finite."""
    out: Tensor = check_pure(function, x)
    for given in (x, x.float()):
        found = function(given)
        check_shape("what it gives", found, *x.shape)
        assert found.dtype == given.dtype, f"it gives {found.dtype} for {given.dtype}"
    assert torch.allclose(function(x[3:5]), out[3:5]), "a number depends on others"

    def differentiated(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        out = function(x)
        return out, *torch.autograd.grad(out.sum(), x)

    for values in differentiated(far):
        assert bool(torch.isfinite(values).all()), f"it or its gradient is not finite: {values.tolist()}"
    check_traceable(differentiated, far)
    return out


def check_denoiser(entry: RegistryEntry[Callable[..., nn.Module]]) -> None:
    """Output (B, A), rows independent of each other, all inputs listened to, `prepare` and `denoise` like `forward`."""
    make = partial(entry.make(), DIMS.state, DIMS.action)
    module = with_moved_parameters(make())
    batch, t = make_batch(), torch.arange(BATCH) % 5
    action, state = batch.action[0], batch.state[0]
    out = check_pure(module, action, t, state)
    check_shape("output", out, *action.shape)
    for changed in ((action + 1, t, state), (action, (t + 1) % 5, state), (action, t, state + 1)):
        assert not torch.allclose(out, module(*changed)), "an input is ignored"
    check_independent_rows(module, action, t, state)
    if hasattr(module, "prepare"):
        _check_prepared_chain(module, action, state)
    if hasattr(module, "training_noise"):
        _check_training(module, action, t, state)
    check_copies(make, module, action, t, state)
    check_module(module, Network.__call__, action, t, state)


def _check_prepared_chain(module: Any, action: Tensor, state: Tensor) -> None:
    """What a denoiser prepares for a whole chain gives what `forward` gives at every timestep."""
    prepared = module.prepare(state, torch.arange(5))
    for index in range(5):
        whole = module(action, torch.full((BATCH,), index), state)
        assert torch.allclose(module.denoise(action, index, prepared), whole), "denoise differs from forward"

    def chain(network: Network, action: Tensor, state: Tensor) -> Any:
        prepared = network.call("prepare", state, torch.arange(5, device=state.device))
        return network.call("denoise", action, 3, prepared)

    check_module(module, chain, action, state)


def _check_training(module: Any, action: Tensor, t: Tensor, state: Tensor) -> None:
    """`train_forward` like `forward` in shape, rows independent, moved by the noise that `training_noise` declares."""
    specs = module.training_noise(BATCH)
    noise = one_noise(specs)
    out = module.train_forward(action, t, state, noise)
    check_shape("what train_forward gives", out, *action.shape)
    if specs:
        other = module.train_forward(action, t, state, one_noise(specs, seed=1))
        assert not torch.allclose(out, other), "train_forward ignores its noise"
    check_independent_rows(lambda *inputs: module.train_forward(*inputs, noise), action, t, state)
    check_module(module, lambda network, *given: network.call("train_forward", *given), action, t, state, noise)


def check_critic(entry: RegistryEntry[Callable[..., CriticEnsemble]]) -> None:
    """Values (M, B); members initialised differently; aggregations of the right shapes; it can be stacked."""
    make = partial(entry.make(), DIMS.state, DIMS.action)
    ensemble = make()
    assert isinstance(ensemble, CriticEnsemble), "a critic must be a CriticEnsemble"
    ensemble = ensemble.double()
    batch = make_batch()
    state, action = batch.state[0], batch.action[0]
    q = ensemble(state, action)
    assert q.shape[1:] == (BATCH,), f"values have shape {tuple(q.shape)} instead of (M, {BATCH})"
    assert len({float(row.detach().sum()) for row in q}) == len(q), "two members are the same"
    outputs = ensemble.outputs(state, action)
    assert torch.allclose(outputs.mean(dim=-1), q), "the mean of outputs (M, B, Z) over Z must be forward's (M, B)"
    layout = Layout.of(ensemble)
    if layout.members is not None:
        row = layout.flatten(dict(ensemble.named_parameters()))
        as_one = layout.bind(row, as_one=True).call("outputs", state, action)
        assert torch.allclose(as_one, outputs), "called as one its members give other values: they are not alike"
    target = ensemble.backup(outputs, one_noise(ensemble.noise()))
    assert target.shape[:-1] == (BATCH,), f"backup has shape {tuple(target.shape)} instead of ({BATCH}, Z)"
    assert ensemble.loss(outputs, target).ndim == 0, "the loss must be a scalar"
    check_shape("ranking_value of (M, B)", ensemble.ranking_value(q), BATCH)
    check_shape("ranking_value of (M, B, 1)", ensemble.ranking_value(q.unsqueeze(-1)), BATCH, 1)
    for index in (0, 1):
        for values in ensemble.actor_objective(q, torch.tensor(index)):
            check_shape("each of actor_objective's two", values, BATCH)
    check_independent_rows(lambda *inputs: ensemble.outputs(*inputs).transpose(0, 1), state, action)
    check_copies(make, ensemble, state, action)
    check_module(ensemble, _update, state, action, one_noise(ensemble.noise()), torch.tensor(1))


def _update(network: Network, state: Tensor, action: Tensor, noise: Noise, index: Tensor) -> Any:
    """All that an algorithm asks of an ensemble; the loss and what the actor ascends are differentiated."""
    ensemble = ensemble_of(network)
    outputs = network.call("outputs", state, action)
    q = outputs.mean(dim=-1)
    target = ensemble.backup(outputs.detach(), noise) + 1
    ranked = ensemble.ranking_value(q.detach())
    return ensemble.loss(outputs, target), ensemble.actor_objective(q, index), ranked, target
