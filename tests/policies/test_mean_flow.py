"""Average velocities: the identity by hand, a flow of straight lines, and directional derivatives."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from made_policies import bind, drawn
from torch import Tensor, nn

from dqlab.errors import ConfigError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.mean_flow import MeanFlowPolicy, directional_derivative

DIMS = Dims(3, 2, 2.0)
SMALL = partial(MLPDenoiser, hidden_dim=16)
PLAIN = {"time_scale": 1.0, "adaptive_power": 0.0}


class Linear(nn.Module):
    """a x + b t + c * the last number beside x and t."""

    def __init__(self, a: float, b: float, c: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b, c))

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.a * x + self.b * t.unsqueeze(-1) + self.c * state[:, -1:]


class Towards(nn.Module):
    """The average velocity of straight lines to one action, which is their velocity: (target - x) / (1 - t)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target, self.width = nn.Parameter(torch.tensor([0.3, -0.8]).double()), width

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        assert state.shape[1] == self.width
        return (self.target - x) / (1 - t.unsqueeze(-1))


def states(count: int = 5) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def column(*values: float) -> Tensor:
    return torch.tensor(values).double().unsqueeze(-1)


@pytest.mark.parametrize(
    ("residual", "error"),
    [(False, 1.1 - (2 + 0.5 * (0.5 * 2 + 0.2))), (True, (1.1 - 2) - (2 + 0.5 * (0.5 * 2 + 0.2 - 2)))],
)
def test_the_identity_by_hand(residual: bool, error: float) -> None:
    """x_0 = 1, action 3, t = 0.5: x = 2, v = 2; the network gives 0.5 x + 0.2 t = 1.1; the interval is 0.5 long."""
    noise = {"t": torch.tensor([0.5]).double(), "start": column(1.0)}
    network, action, dims = bind(Linear(0.5, 0.2)), column(3.0), Dims(3, 1, 4.0)
    policy = MeanFlowPolicy(residual=residual, **PLAIN)
    assert policy.losses(network, dims, states(1), action, noise).tolist() == pytest.approx([error**2])
    weighted = MeanFlowPolicy(residual=residual, adaptive_power=0.5, adaptive_floor=2.0)
    losses = weighted.losses(network, dims, states(1), action, noise)
    assert losses.tolist() == pytest.approx([error**2 / (error**2 + 2) ** 0.5])
    bounded = MeanFlowPolicy(residual=residual, target_bound=0.01, **PLAIN)  # of x + u, to 0.04
    found = 1.1 if residual else 2 + 1.1
    losses = bounded.losses(network, dims, states(1), action, noise)
    assert losses.tolist() == pytest.approx([(found - 0.04) ** 2])


def test_drawn_ends_by_hand() -> None:
    """Ends in order whichever is drawn first, the network sees them, and half of the intervals are empty.

    The network gives x + 0.5 t + 2 end. Times (0.2, 0.6), either way round: x = 0.2, v = 1, so du/dt = 1.5.
    """
    policy = MeanFlowPolicy(fixed_end=False, instant_share=0.5, residual=False, **PLAIN)
    noise = {"t": torch.tensor([0.2, 0.6, 0.2]), "end": torch.tensor([0.6, 0.2, 0.6])}
    noise = {name: value.double() for name, value in {**noise, "instant": torch.tensor([0.7, 0.5, 0.4])}.items()}
    start, action = torch.zeros(3, 1).double(), torch.ones(3, 1).double()
    losses = policy.losses(bind(Linear(1, 0.5, 2)), Dims(3, 1), states(3), action, {**noise, "start": start})
    error, instant = 0.2 + 0.1 + 1.2 - (1 + 0.4 * 1.5), 0.2 + 0.1 + 0.4 - 1
    assert losses.tolist() == pytest.approx([error**2, error**2, instant**2])


@pytest.mark.parametrize("fixed_end", [True, False])
def test_straight_lines_have_nothing_to_learn_and_arrive_in_one_step(fixed_end: bool) -> None:
    policy = MeanFlowPolicy(residual=False, fixed_end=fixed_end, **PLAIN)
    network = bind(Towards(3 if fixed_end else 4))
    target = network.parameters["target"].expand(5, 2)
    assert float(policy.losses(network, DIMS, states(), target, drawn(policy.loss_noise(DIMS, 5))).max()) < 1e-20
    assert torch.allclose(policy.sample(network, DIMS, states(), drawn(policy.sample_noise(DIMS, 5))), target)


def test_a_sample_is_the_networks_answer_to_noise() -> None:
    """The output itself where it is residual, at t = 0 (and the end at 1); clamped to the action range."""
    noise = {"start": torch.tensor([[0.5, -2.0]]).double()}
    residual = MeanFlowPolicy().sample(bind(Linear(1.5, 9.0)), DIMS, states(1), noise)
    assert residual.squeeze().tolist() == pytest.approx([0.75, -2.0])
    other = MeanFlowPolicy(residual=False, fixed_end=False)
    plain = other.unbounded_action(bind(Linear(1.5, 9.0, 0.1)), states(1), noise)
    assert plain.squeeze().tolist() == pytest.approx([1.25 + 0.1, -5.0 + 0.1])


def test_times_are_drawn_from_a_grid() -> None:
    """With two times, 0 and 1/2: x_0 = 0, action 1, the network gives t, u's target is v + (1 - t) * 1."""
    noise = {"t": torch.tensor([0.49, 0.51, 0.999]).double(), "start": torch.zeros(3, 1).double()}
    policy = MeanFlowPolicy(n_times=2, residual=False, **PLAIN)
    losses = policy.losses(bind(Linear(0.0, 1.0)), Dims(3, 1), states(3), torch.ones(3, 1).double(), noise)
    assert losses.tolist() == pytest.approx([4.0, 1.0, 1.0])


def test_no_gradient_flows_through_what_is_aimed_at() -> None:
    """The gradient is that of the errors with the right-hand side of the identity as given numbers."""
    policy = MeanFlowPolicy(denoiser=SMALL, **PLAIN)
    module = policy.build(DIMS).double()
    noise, action = drawn(policy.loss_noise(DIMS, 5)), torch.rand(5, 2, dtype=torch.float64)
    t, v = noise["t"].unsqueeze(-1), action - noise["start"]
    x, ones = noise["start"] + t * v, torch.ones(5, dtype=torch.float64)
    u, slope = torch.autograd.functional.jvp(
        lambda x, t: module(x, t, states()) - x, (x, noise["t"]), (v, ones), create_graph=True
    )
    names = [name for name, _ in module.named_parameters()]
    wanted = torch.autograd.grad((u - (v + (1 - t) * slope).detach()).square().mean(), list(module.parameters()))
    network = bind(module)
    leaves = {name: network.parameters[name].requires_grad_() for name in names}
    loss = policy.losses(network, DIMS, states(), action, noise).mean()
    for found, expected in zip(torch.autograd.grad(loss, list(leaves.values())), wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_directional_derivatives() -> None:
    """Of x^2 * sin(t) in the direction (3, 2): 6 x sin(t) + 2 x^2 cos(t); of a function with its own rule, too."""
    x, t = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 2.0]).double()
    value, slope = directional_derivative(lambda x, t: x**2 * t.sin(), (x, t), (3 + 0 * x, 2 + 0 * t))
    assert torch.allclose(value, x**2 * t.sin())
    assert torch.allclose(slope, 6 * x * t.sin() + 2 * x**2 * t.cos())
    step = 1e-6
    mish = bind(SMALL(3, 2))
    at = lambda x: mish(x, torch.zeros(2).double(), states(2))  # noqa: E731
    x, v = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numeric = (at(x + step * v) - at(x - step * v)) / (2 * step)
    assert torch.allclose(directional_derivative(at, (x,), (v,))[1], numeric, atol=1e-8)


@pytest.mark.parametrize(
    "fields", [{"time_scale": 0.0}, {"instant_share": 1.5}, {"n_times": -1}, {"target_bound": 0.0}], ids=str
)
def test_impossible_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        MeanFlowPolicy(**fields)
