"""What algorithms on average velocities and on two flows descend, against plain loops."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from made_scenes import Scene
from torch import Tensor

from dqlab.networks.ensembles import LowerBoundEnsemble
from dqlab.policies.base import strip_prefix
from dqlab.policies.flow import MeanFlowPolicy, RectifiedFlowPolicy
from dqlab.testing import BATCH, DIMS, one_noise

FLOW = partial(RectifiedFlowPolicy, n_steps=3)
FEW = partial(LowerBoundEnsemble, n_critics=3, beta=0.5, hidden_dim=16)
SMALL_QAM = {"policy": FLOW, "critic": FEW, "inverse_temperature": 0.7}


def one_step(scene: Scene, state: Tensor, prefix: str) -> Tensor:
    """What the actor's network itself gives for noise at the time 0."""
    start = scene.noise[f"{prefix}_start"]
    return scene.nets["actor"](start, torch.zeros(len(start)).double(), state)


@pytest.mark.parametrize("normalise", [False, True])
def test_meanflow_ql_clones_and_ascends_with_one_network(normalise: bool) -> None:
    """alpha L_bc - mean Q (over mean |Q|) + 0.3 times what lies outside of [-1, 1], Q the online critics' mean."""
    scene = Scene("meanflow_ql", alpha=2.0, range_weight=0.3, normalise_q=normalise)
    scene.nets["actor"].parameters["final_layer.weight"].data.mul_(60)  # some actions lie outside
    batch = scene.batch
    action = one_step(scene, batch.state, "actor")
    assert bool((action.abs() > 1).any())
    q = scene.nets["critic"](batch.state, action.clamp(-1, 1)).mean(dim=0)
    bc_loss = MeanFlowPolicy().losses(scene.nets["actor"], DIMS, batch.state, batch.action, scene.own("bc")).mean()
    outside = (action - 1).relu().mean() + (-1 - action).relu().mean()
    q_loss = -q.mean() / (q.abs().mean().detach() if normalise else 1)
    scene.check("actor", 2 * bc_loss + q_loss + 0.3 * outside)


def test_meanflow_ql_backs_up_the_better_of_two_actions() -> None:
    scene = Scene("meanflow_ql", backup_candidates=2)
    following = scene.batch.next_state.repeat_interleave(2, dim=0)
    action = one_step(scene, following, "target").clamp(-1, 1)
    q = scene.nets["critic_target"](following, action).mean(dim=0).view(BATCH, 2).amax(dim=1)
    scene.check("critic", scene.td(q, averaged=True))


def qam_loss(scene: Scene, inverse_temperature: float) -> Tensor:
    """The loss of three steps, written out: autograd for every derivative."""
    h, state, nets = 1 / 3, scene.batch.state, scene.nets
    x, losses, xs = scene.noise["path_start"], [], []
    sigmas = [math.sqrt(2 * (1 - step * h + h) / (step * h + h)) for step in range(3)]

    def at(net: str, x: Tensor, step: int) -> Tensor:
        return nets[net](x, torch.full((BATCH,), 100.0 * step / 3).double(), state)

    for step in range(3):
        x, t = x.detach(), step * h
        xs.append(x)
        if step < 2:
            noise = math.sqrt(h) * sigmas[step] * scene.noise["path_eps"][step]
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
        shift = at("actor", xs[step], step) - at("behaviour_target", xs[step], step)
        losses.append((2 / sigmas[step] * shift + sigmas[step] * adjoint.detach()).square().sum(dim=1).mean())
    return torch.stack(losses).sum()


def lower_bound(q: Tensor) -> Tensor:
    return q.mean(dim=0) - 0.5 * q.std(dim=0, unbiased=False)


def test_qam_clones_beside_matches_adjoints_and_backs_up_a_lower_bound_of_the_actors_action() -> None:
    scene = Scene("qam", **SMALL_QAM)
    batch, nets = scene.batch, scene.nets
    scene.check("actor", qam_loss(scene, 0.7))
    cloned = FLOW().losses(nets["behaviour"], DIMS, batch.state, batch.action, scene.own("bc"))
    scene.check("behaviour", cloned.mean())
    action = FLOW().sample(nets["actor"], DIMS, batch.next_state, scene.own("target"))
    scene.check("critic", scene.td(lower_bound(nets["critic_target"](batch.next_state, action)), averaged=True))


def edited(scene: Scene, state: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The actor's actions with 0.2 tanh(u) added, and log densities of tanh(u) by the change of variables."""
    with torch.no_grad():
        action = FLOW().sample(scene.nets["actor"], DIMS, state, strip_prefix("flow", noise))
    mean, log_std = scene.nets["edit"].part("gaussian")(torch.cat([state, action], dim=1)).chunk(2, dim=1)
    law = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    u = mean + law.scale * noise["eps"]
    log_prob = (law.log_prob(u) - (1 - u.tanh().square()).log()).sum(dim=1)
    return (action + 0.2 * u.tanh()).clamp(-1, 1), log_prob


def test_qam_edit_edits_what_it_does_and_ascends_q_and_entropy() -> None:
    """mean Q of edited actions, entropy weighed by the multiplier; its own gradient is that of entropy - target."""
    scene = Scene("qam_edit", **SMALL_QAM, edit_scale=0.2, target_entropy=-0.7)
    batch, nets = scene.batch, scene.nets
    log_value = scene.parameter("edit", "multiplier.log_value", 0.4)
    action, log_prob = edited(scene, batch.state, scene.own("edit"))
    excess = -0.7 * DIMS.action + log_prob.mean().detach()
    wanted = -nets["critic"](batch.state, action).mean() + math.exp(0.4) * log_prob.mean()
    scene.check("edit", wanted - log_value * math.exp(0.4) * excess)
    action, _ = edited(scene, batch.next_state, scene.own("target"))
    scene.check("critic", scene.td(lower_bound(nets["critic_target"](batch.next_state, action)), averaged=True))
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    acted = scene.algorithm.act(DIMS, nets, batch.state, noise)
    assert torch.allclose(acted, edited(scene, batch.state, strip_prefix("chain", noise))[0])
