"""What algorithms on average velocities and on two flows descend, against plain loops; whom their gradients reach."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from made_scenes import Scene, gradients_of
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.meanflow_ql import MeanFlowQL
from dqlab.algorithms.qam import QAM
from dqlab.algorithms.qam_edit import QAMEdit
from dqlab.errors import ConfigError
from dqlab.networks.ensembles import LowerBoundEnsemble
from dqlab.policies.base import strip_prefix
from dqlab.policies.flow import MeanFlowPolicy, RectifiedFlowPolicy
from dqlab.policies.gaussian import TanhGaussianPolicy
from dqlab.testing import BATCH, DIMS, one_noise

FLOW = partial(RectifiedFlowPolicy, n_steps=3)
FEW = partial(LowerBoundEnsemble, n_critics=3, beta=0.5, hidden_dim=16)
SMALL_QAM = {"policy": FLOW, "critic": FEW, "inverse_temperature": 0.7}


def one_step(scene: Scene, net: str, state: Tensor, prefix: str) -> Tensor:
    """What the network itself gives for noise at the time 0."""
    start = scene.noise[f"{prefix}_start"]
    return scene.nets[net](start, torch.zeros(len(start)).double(), state)


@pytest.mark.parametrize("normalise", [False, True])
def test_meanflow_ql_clones_and_ascends_with_one_network(normalise: bool) -> None:
    """alpha L_bc - mean Q (over mean |Q|) + 0.3 times what lies outside of [-1, 1], Q the online critics' mean."""
    scene = Scene(MeanFlowQL(alpha=2.0, range_weight=0.3, normalise_q=normalise))
    with torch.no_grad():
        scene.pack.state.parameters["actor"].mul_(6)  # some actions lie outside
    batch, policy = scene.batch, MeanFlowPolicy()
    action = one_step(scene, "actor", batch.state, "actor")
    assert bool((action.abs() > 1).any())
    q = scene.nets["critic"](batch.state, action.clamp(-1, 1)).mean(dim=0)
    noise = strip_prefix("bc", scene.noise)
    bc_loss = policy.losses(scene.nets["actor"], DIMS, batch.state, batch.action, noise).mean()
    outside = (action - 1).relu().mean() + (-1 - action).relu().mean()
    wanted = 2 * bc_loss - q.mean() / (q.abs().mean() if normalise else 1) + 0.3 * outside
    assert float(scene.loss("actor")) == pytest.approx(float(wanted))
    assert gradients_of(scene, "actor") == {"actor": True, "critic": True, "critic_target": False}


def test_meanflow_ql_backs_up_the_better_of_two_actions() -> None:
    scene = Scene(MeanFlowQL(backup_candidates=2))
    following = scene.batch.next_state.repeat_interleave(2, dim=0)
    action = one_step(scene, "actor", following, "target").clamp(-1, 1)
    q = scene.nets["critic_target"](following, action).mean(dim=0).view(BATCH, 2).amax(dim=1)
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(q)) / 2)


def qam_loss(scene: Scene, inverse_temperature: float) -> Tensor:
    """The loss of three steps, written out: autograd for every derivative."""
    h, state, nets = 1 / 3, scene.batch.state, scene.nets
    x, losses, xs = scene.noise["path_start"], [], []

    def at(net: str, x: Tensor, step: int) -> Tensor:
        return nets[net](x, torch.full((BATCH,), 100.0 * step / 3).double(), state)

    for step in range(3):
        x, t = x.detach(), step * h
        xs.append(x)
        if step < 2:
            sigma = math.sqrt(2 * (1 - t + h) / (t + h))
            noise = math.sqrt(h) * sigma * scene.noise["path_eps"][step]
            x = x + h * (2 * at("actor", x, step) - x / (t + h)) + noise
        else:
            x = x + h * at("behaviour_target", x, step)
    leaf = x.detach().requires_grad_()
    value = nets["critic_target"](state, leaf.clamp(-1, 1)).mean(dim=0).sum()
    adjoint = -inverse_temperature * torch.autograd.grad(value, leaf)[0]
    for step in reversed(range(3)):
        leaf, t = xs[step].clone().requires_grad_(), step * h
        drift = 2 * at("behaviour_target", leaf, step + 1) - leaf / (t + h)
        adjoint = adjoint + h * torch.autograd.grad(drift, leaf, adjoint)[0]
        sigma = math.sqrt(2 * (1 - t + h) / (t + h))
        shift = at("actor", xs[step], step) - at("behaviour_target", xs[step], step)
        losses.append((2 / sigma * shift + sigma * adjoint.detach()).square().sum(dim=1).mean())
    return torch.stack(losses).sum()


def test_qam_is_adjoint_matching_to_the_critics_gradient() -> None:
    """In value and gradient, which reaches the actor alone and goes neither through its path nor the adjoints."""
    scene = Scene(QAM(**SMALL_QAM))
    assert {name for name, reached in gradients_of(scene, "actor").items() if reached} == {"actor"}
    found, wanted = scene.loss("actor"), qam_loss(scene, 0.7)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()))
    torch.testing.assert_close(*(torch.autograd.grad(loss, scene.rows["actor"])[0] for loss in (found, wanted)))


def test_qam_clones_beside_and_backs_up_a_lower_bound_of_the_actors_action() -> None:
    scene = Scene(QAM(**SMALL_QAM))
    batch, nets, flow = scene.batch, scene.nets, FLOW()
    cloned = flow.losses(nets["behaviour"], DIMS, batch.state, batch.action, strip_prefix("bc", scene.noise)).mean()
    assert float(scene.loss("behaviour")) == pytest.approx(float(cloned))
    action = flow.sample(nets["actor"], DIMS, batch.next_state, strip_prefix("target", scene.noise))
    q = nets["critic_target"](batch.next_state, action)
    target = batch.reward + 0.99 * (1 - batch.terminal) * (q.mean(dim=0) - 0.5 * q.std(dim=0, unbiased=False))
    wanted = (nets["critic"](batch.state, batch.action) - target).square().mean()
    assert float(scene.loss("critic")) == pytest.approx(float(wanted))


def edited(scene: Scene, state: Tensor, prefix: str) -> tuple[Tensor, Tensor]:
    """The actor's actions with 0.2 tanh(u) added, and log densities of tanh(u) by the change of variables."""
    noise = strip_prefix(prefix, scene.noise)
    action = FLOW().sample(scene.nets["actor"], DIMS, state, {"start": noise["flow_start"]})
    gaussian = scene.nets["edit"].module.gaussian
    values = {key.removeprefix("gaussian."): value for key, value in scene.nets["edit"].parameters.items()}
    values = {key: value for key, value in values.items() if not key.startswith("multiplier")}
    out = torch.func.functional_call(gaussian, values, (torch.cat([state, action], dim=1),))
    mean, log_std = out.chunk(2, dim=1)
    law = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    u = mean + law.scale * noise["eps"]
    log_prob = (law.log_prob(u) - (1 - u.tanh().square()).log()).sum(dim=1)
    return (action + 0.2 * u.tanh()).clamp(-1, 1), log_prob


def test_qam_edit_ascends_q_and_entropy_within_its_bounds() -> None:
    """mean Q of edited actions, entropy weighed by the multiplier; its own gradient is that of entropy - target."""
    scene = Scene(QAMEdit(**SMALL_QAM, edit_scale=0.2, target_entropy=-0.7))
    weight = scene.pack.layouts["edit"].unflatten(scene.pack.state.parameters["edit"][0])["multiplier.log_value"]
    weight.fill_(0.4)
    gradients = gradients_of(scene, "edit")
    assert {name for name, reached in gradients.items() if reached} == {"edit", "critic"}
    action, log_prob = edited(scene, scene.batch.state, "edit")
    q = scene.nets["critic"](scene.batch.state, action).mean(dim=0)
    entropy = -log_prob.mean().detach()
    multiplier = scene.nets["edit"].parameters["multiplier.log_value"].exp()
    wanted = -q.mean() + math.exp(0.4) * log_prob.mean() + multiplier * (entropy + 0.7 * DIMS.action)
    row = scene.rows["edit"]
    torch.testing.assert_close(*(torch.autograd.grad(loss, row)[0] for loss in (scene.loss("edit"), wanted)))


def test_qam_edit_edits_next_actions_and_what_it_does() -> None:
    scene = Scene(QAMEdit(**SMALL_QAM, edit_scale=0.2))
    batch, nets = scene.batch, scene.nets
    action, _ = edited(scene, batch.next_state, "target")
    q = nets["critic_target"](batch.next_state, action)
    target = batch.reward + 0.99 * (1 - batch.terminal) * (q.mean(dim=0) - 0.5 * q.std(dim=0, unbiased=False))
    wanted = (nets["critic"](batch.state, batch.action) - target).square().mean()
    assert float(scene.loss("critic")) == pytest.approx(float(wanted))
    scene.noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    acted = scene.algorithm.act(DIMS, nets, batch.state, scene.noise)
    assert torch.allclose(acted, edited(scene, batch.state, "chain")[0])


@pytest.mark.parametrize(
    ("algorithm", "loss", "reached"),
    [
        (QAM(**SMALL_QAM), "behaviour", {"behaviour"}),
        (QAM(**SMALL_QAM), "critic", {"critic"}),
        (MeanFlowQL(), "critic", {"critic"}),
    ],
)
def test_whom_gradients_reach(algorithm: Algorithm, loss: str, reached: set[str]) -> None:
    gradients = gradients_of(Scene(algorithm), loss)
    assert {name for name, each in gradients.items() if each} == reached


def test_their_targets_are_an_update_behind_where_the_update_is_joint() -> None:
    for algorithm in (QAM(), QAMEdit()):
        for joint in (True, False):
            targets = replace(algorithm, joint_update=joint).targets()
            assert {target.lags for target in targets.values()} == {joint}


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (QAM(policy="one_step_flow"), r"QAM\.policy must be a rectified flow"),
        (QAMEdit(edit=lambda: TanhGaussianPolicy(squashed=False)), r"QAMEdit\.edit must be a squashed Gaussian"),
        (MeanFlowQL(policy="gaussian"), "must be 'mean_flow'"),
    ],
)
def test_what_they_want_of_their_policies(algorithm: Algorithm, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scene(algorithm).loss("actor")
