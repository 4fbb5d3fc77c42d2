"""Flows with velocities that are known in closed form, and the distillation of one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from made_policies import bind, drawn
from torch import Tensor, nn

from dqlab.errors import ConfigError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.stacking import Network
from dqlab.policies.base import Dims
from dqlab.policies.flow import OneStepFlow, OneStepFlowPolicy, RectifiedFlowPolicy

DIMS = Dims(3, 2, 2.0)
SMALL = partial(MLPDenoiser, hidden_dim=16)


class Linear(nn.Module):
    """Velocity a x + b t, t as the network sees it."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.a * x + self.b * t.unsqueeze(-1)


class Towards(nn.Module):
    """The velocity of straight lines to one action: (target - x) / (1 - t)."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.tensor([0.3, -0.8]).double())

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return (self.target - x) / (1 - t.unsqueeze(-1) / 100)


def states(count: int = 5) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("n_steps", [1, 4, 10])
def test_euler_steps_of_a_linear_velocity(n_steps: int) -> None:
    """x' = a x gives (1 + a / n)^n x_0; x' = t, at the left ends of n steps, adds (n - 1) / 2n."""
    policy, start = RectifiedFlowPolicy(n_steps=n_steps), drawn(RectifiedFlowPolicy().sample_noise(DIMS, 5))["start"]
    grown = policy.integrate(bind(Linear(-0.7, 0.0)), states(), start)
    assert torch.allclose(grown, (1 - 0.7 / n_steps) ** n_steps * start)
    moved = policy.integrate(bind(Linear(0.0, 0.01)), states(), start)  # the network sees 100 t
    assert torch.allclose(moved, start + (n_steps - 1) / (2 * n_steps))
    sampled = policy.sample(bind(Linear(0.7, 0.0)), DIMS, states(), {"start": 3 * start})
    assert torch.allclose(sampled, (3 * (1 + 0.7 / n_steps) ** n_steps * start).clamp(-2, 2))


@pytest.mark.parametrize("n_steps", [1, 3, 10])
def test_straight_lines_arrive_whatever_the_number_of_steps(n_steps: int) -> None:
    policy, network = RectifiedFlowPolicy(n_steps=n_steps), bind(Towards())
    target = network.parameters["target"].expand(5, 2)
    assert torch.allclose(policy.sample(network, DIMS, states(), drawn(policy.sample_noise(DIMS, 5))), target)
    assert float(policy.losses(network, DIMS, states(), target, drawn(policy.loss_noise(DIMS, 5))).max()) < 1e-20


def test_losses_by_hand() -> None:
    """x_0 = 1, action 3, t = 0.25: x_t = 1.5, velocity 2; predicted 0.5 * 1.5 + 0.02 * 25 = 1.25."""
    noise = {"t": torch.tensor([0.25]).double(), "start": torch.tensor([[1.0]]).double()}
    action = torch.tensor([[3.0]]).double()
    losses = RectifiedFlowPolicy().losses(bind(Linear(0.5, 0.02)), Dims(3, 1, 4.0), states(1), action, noise)
    assert losses.tolist() == pytest.approx([0.75**2])


def test_what_is_prepared_once_changes_nothing() -> None:
    """The same denoiser with `prepare` and, as the part of another module, without."""

    class Plain(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
            return self.inner(x, t, state)

    policy = RectifiedFlowPolicy(denoiser=SMALL)
    module, noise = policy.build(DIMS), drawn(policy.sample_noise(DIMS, 5))
    prepared = policy.sample(bind(module), DIMS, states(), noise)
    assert torch.allclose(prepared, policy.sample(bind(Plain(module)), DIMS, states(), noise), atol=1e-12)


@pytest.mark.parametrize("fields", [{"n_steps": 0}, {"time_scale": 0.0}, {"alpha": -1.0}], ids=str)
def test_impossible_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        OneStepFlowPolicy(**fields)


def one_step(a: float, w: float) -> Network:
    """A teacher with velocity a x and a student that gives w x."""
    return bind(OneStepFlow(Linear(a, 0.0), Linear(w, 0.0)))


def test_distillation_by_hand() -> None:
    """Two Euler steps of x' = x: 2.25 x_0, clamped to 2; the student's 3 x_0 is not clamped in the loss."""
    policy = OneStepFlowPolicy(n_steps=2)
    noise = {"start": torch.tensor([[0.4], [1.0]]).double()}
    dims, state, network = Dims(3, 1, 2.0), states(2), one_step(1.0, 3.0)
    assert policy.flow_sample(network, dims, state, noise).squeeze().tolist() == pytest.approx([0.9, 2.0])
    assert policy.one_step_action(network, state, noise).squeeze().tolist() == pytest.approx([1.2, 3.0])
    assert policy.sample(network, dims, state, noise).squeeze().tolist() == pytest.approx([1.2, 2.0])
    assert policy.distillation_losses(network, dims, state, noise).tolist() == pytest.approx([0.09, 1.0])


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    policy, noise = OneStepFlowPolicy(n_steps=4), {"start": 0.1 * torch.ones(5, 2, dtype=torch.float64)}
    assert float(policy.distillation_losses(one_step(0.6, 1.15**4), DIMS, states(), noise).max()) < 1e-20


def test_the_teacher_is_the_rectified_flow() -> None:
    """The same weights give the same losses and samples as `RectifiedFlowPolicy`."""
    policy, plain = OneStepFlowPolicy(denoiser=SMALL, one_step=SMALL), RectifiedFlowPolicy(denoiser=SMALL)
    module = policy.build(DIMS)
    both, flow = bind(module), bind(module.flow)
    noise, action = drawn(plain.loss_noise(DIMS, 5)), torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(
        policy.flow_losses(both, DIMS, states(), action, noise), plain.losses(flow, DIMS, states(), action, noise)
    )
    noise = drawn(plain.sample_noise(DIMS, 5))
    assert torch.equal(policy.flow_sample(both, DIMS, states(), noise), plain.sample(flow, DIMS, states(), noise))
