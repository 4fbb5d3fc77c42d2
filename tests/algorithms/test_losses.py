"""Losses and acting that the authors' recorded updates (test_rivals.py) do not show, against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import gin
import pytest
import torch
from made_scenes import Scene, gradient_of, gradients_of, with_gradients
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from dqlab.algorithms import Algorithm
from dqlab.algorithms.base import Target
from dqlab.algorithms.bdpo import BDPO
from dqlab.algorithms.best_of_n import BestOfN
from dqlab.algorithms.cvae_ql import CVAEQL
from dqlab.algorithms.dac import DAC
from dqlab.algorithms.dtql import DTQL
from dqlab.algorithms.edac import EDAC
from dqlab.algorithms.edp import EDP
from dqlab.algorithms.fql import FQL
from dqlab.algorithms.gaussian_ql import GaussianQL
from dqlab.algorithms.idql import IDQL
from dqlab.algorithms.ifql import IFQL
from dqlab.algorithms.iql import IQL
from dqlab.algorithms.mmd_ql import MMDQL, gaussian_kernel, laplacian, mmd
from dqlab.algorithms.qsm import QSM
from dqlab.algorithms.rebrac import ReBRAC
from dqlab.algorithms.td3_bc import TD3BC
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.networks.ensembles import LowerBoundEnsemble, MinimumEnsemble
from dqlab.networks.mlp import LinearMultiplier, Multiplier
from dqlab.policies.base import strip_prefix
from dqlab.policies.diffusion import DiffusionPolicy, EDMPolicy
from dqlab.policies.flow import RectifiedFlowPolicy
from dqlab.policies.gaussian import DeterministicPolicy, TanhGaussianPolicy
from dqlab.policies.selection import Argmax
from dqlab.testing import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.training import Pack


def test_td3_bc_smoothing_scales_with_the_range_and_is_clipped() -> None:
    scene = Scene(replace(TD3BC(), smoothing=10.0, smoothing_clip=0.01))
    shift = 0.01 * scene.noise["smoothing"].sign()
    followed = DeterministicPolicy().sample(scene.nets["actor_target"], DIMS, scene.batch.next_state, {})
    action = (followed + shift).clamp(-1, 1)
    following = scene.nets["critic_target"](scene.batch.next_state, action).min(dim=0).values
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(following)), rel=1e-4)


def test_iql_bounds_its_weights() -> None:
    scene = Scene(IQL(beta=500.0, max_weight=2.0))
    state, action = scene.batch.state, scene.batch.action
    advantage = scene.nets["critic_target"](state, action).min(dim=0).values - scene.nets["value"](state)
    log_prob = TanhGaussianPolicy().log_prob(scene.nets["actor"], DIMS, state, action)
    weight = (500 * advantage).exp().clamp(max=2)
    assert float(scene.loss("actor")) == pytest.approx(-float((weight * log_prob).mean()))


def test_idql_takes_the_best_candidate_of_the_averaged_actor() -> None:
    scene = Scene(IDQL(selection=lambda: Argmax(n_candidates=6)))
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    state = scene.batch.state.repeat(6, 1)
    chain = {key.removeprefix("chain_"): value for key, value in noise.items()}
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, chain)
    q = scene.nets["critic_target"](state, actions).min(dim=0).values.view(6, BATCH)
    wanted = actions.view(6, BATCH, -1)[q.argmax(dim=0), torch.arange(BATCH)]
    assert torch.allclose(scene.algorithm.act(DIMS, scene.nets, scene.batch.state, noise), wanted)


def test_edp_averages_its_actor_at_every_fifth_update_after_a_thousand() -> None:
    average = EDP().targets()["actor_ema"]
    assert [done for done in range(1, 1017) if average.updates_at(done - 1)] == [1005, 1010, 1015]


@pytest.mark.parametrize("each", [True, False])
def test_edp_clips_its_critics_one_by_one(each: bool) -> None:
    """Adam's first moment is a tenth of the clipped gradient; two replicas with bounds of their own."""
    bounds = (1e-3, 2e-3)
    pack = Pack([EDP(grad_norm=bound, clips_members=each) for bound in bounds], DIMS, [0, 1], dtype=torch.float64)
    batch, noise = make_batch(), make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
    pack.update(Batch(*(field.expand(2, *field.shape[1:]) for field in batch)), both)
    for bound, gradient in zip(bounds, 10 * pack.state.moments["critic"][0], strict=True):
        norms = gradient.view(2, -1).norm(dim=1)
        if each:
            assert norms.tolist() == pytest.approx([bound, bound], rel=1e-2)
        else:
            assert float(norms.norm()) == pytest.approx(bound, rel=1e-2)


def ranked(algorithm: EDP | CVAEQL | MMDQL) -> Tensor:
    """What the candidates of a scene are ranked by, found from the one that is taken; and all the critics say."""
    scene = Scene(algorithm)
    state, action = scene.batch.state, scene.batch.action
    online = scene.nets["critic"](state, action)
    assert not torch.allclose(online, scene.nets["critic_target"](state, action))
    return torch.stack([algorithm.ranking(scene.nets, state, action), online[0], online.amin(dim=0)])


def test_bcq_and_bear_act_by_the_first_online_critic_and_edp_by_the_lower_one() -> None:
    for algorithm in (CVAEQL(), MMDQL()):
        found, first, _ = ranked(algorithm)
        assert torch.equal(found, first)
    found, _, lower = ranked(EDP())
    assert torch.equal(found, lower)


def test_a_network_steps_by_what_it_was_trained_after_unless_the_update_is_joint() -> None:
    """FQL's actor sees the critics of before its update, and their targets follow these; or those of after it."""
    moved = {}
    for joint in (True, False):
        pack = Pack([FQL(joint_update=joint)], DIMS, [0], dtype=torch.float64)
        pack.state.targets["critic_target"].zero_()
        before = pack.state.parameters["critic"].clone()
        noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
        info = pack.update(make_batch(), noise)
        moved[joint] = float(info["actor/q_loss"])
        source = before if joint else pack.state.parameters["critic"]
        assert torch.allclose(pack.state.targets["critic_target"], 0.005 * source)
    assert moved[True] != moved[False]


def test_edp_and_fql_want_their_policies() -> None:
    with pytest.raises(ConfigError, match="must be a diffusion"):
        Scene(EDP(policy="gaussian")).loss("actor")
    with pytest.raises(ConfigError, match="must be a one-step flow"):
        FQL(policy="gaussian").update_noise(DIMS, BATCH)


def test_gaussian_ql_acts_by_its_mode() -> None:
    scene = Scene(GaussianQL())
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    mean, _ = TanhGaussianPolicy().distribution(scene.nets["actor"], DIMS, scene.batch.state)
    assert torch.allclose(scene.algorithm.act(DIMS, scene.nets, scene.batch.state, noise), mean.tanh())


def test_rebrac_stays_near_the_data_twice() -> None:
    """Critics: r + gamma (min Q' - b2 |a~ - a'|^2). Actor: b1 |pi - a|^2 - Q / mean |Q|, squares summed."""
    scene = Scene(ReBRAC(actor_bc=0.3, critic_bc=0.7, smoothing=0.1))
    batch, nets = scene.batch, scene.nets
    assert batch.next_action is not None
    policy = scene.algorithm.resolved_policy
    action = policy.sample(nets["actor_target"], DIMS, batch.next_state, {})
    action = (action + (0.1 * scene.noise["smoothing"]).clamp(-0.5, 0.5)).clamp(-1, 1)
    penalty = 0.7 * (action - batch.next_action).square().sum(dim=1)
    value = nets["critic_target"](batch.next_state, action).amin(dim=0) - penalty
    target = batch.reward + 0.99 * (1 - batch.terminal) * value
    q = nets["critic"](batch.state, batch.action)
    assert float(scene.loss("critic")) == pytest.approx(float((q - target).square().mean(dim=1).sum()))
    ours = policy.sample(nets["actor"], DIMS, batch.state, {})
    q = nets["critic"](batch.state, ours).amin(dim=0)
    wanted = 0.3 * (ours - batch.action).square().sum(dim=1).mean() - q.mean() / q.abs().mean()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted))


def test_gaussian_ql_is_likelihood_plus_q() -> None:
    scene = Scene(replace(GaussianQL(), eta=0.7))
    policy = TanhGaussianPolicy()
    log_prob = policy.log_prob(scene.nets["actor"], DIMS, scene.batch.state, scene.batch.action)
    own = strip_prefix("actor", scene.noise)
    q = scene.nets["critic"](scene.batch.state, policy.sample(scene.nets["actor"], DIMS, scene.batch.state, own))
    first, second = q if int(scene.noise["coin"]) == 0 else q.flip(0)
    wanted = -log_prob.mean() - 0.7 * first.mean() / second.abs().mean()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted))


def test_kernels_and_mmd_by_hand() -> None:
    """x = {0}, y = {2} in one dimension, sigma 1: k(x, y) = exp(-1), or exp(-2); MMD^2 = 2 - 2 k."""
    x, y = torch.zeros(1, 1, 1).double(), torch.full((1, 1, 1), 2.0).double()
    for kernel, alike in ((laplacian, -1.0), (gaussian_kernel, -2.0)):

        def unit(difference: Tensor, kernel: object = kernel) -> Tensor:
            return kernel(difference, sigma=1.0)  # type: ignore[operator]

        wanted = (2 - 2 * torch.tensor(alike).double().exp() + 1e-6).sqrt()
        assert float(mmd(unit, x, y)) == pytest.approx(float(wanted))
        assert float(mmd(unit, x, x)) == pytest.approx(1e-3)


def test_mmd_ql_weighs_its_constraint_by_the_multiplier() -> None:
    scene = Scene(MMDQL())
    scene.nets["multiplier"].parameters["log_value"].fill_(1.5)
    info = scene.pack.trained["actor"].loss(scene.nets, scene.batch, scene.noise, scene.hyper)[1]
    wanted = torch.tensor(1.5).exp() * info["actor/mmd"] + info["actor/q_loss"]
    assert float(info["actor/loss"]) == pytest.approx(float(wanted))


def test_bears_choices_of_noise_and_start() -> None:
    """Noise of the actor's samples within +-0.5, all other noise as it was; multipliers that begin where seeds say."""
    algorithm = MMDQL(match_noise_clip=0.5, multiplier_spread=1.0)
    noise, usual = (one_noise(each.update_noise(DIMS, BATCH)) for each in (algorithm, MMDQL()))
    clipped = {name for name, value in noise.items() if not torch.equal(value, usual[name])}
    assert clipped == {"ours_eps"}
    assert torch.equal(noise["ours_eps"], usual["ours_eps"].clamp(-0.5, 0.5))
    starts = [pack_of(each).state.parameters["multiplier"][:, 0] for each in (algorithm, MMDQL())]
    assert len(set(starts[0].tolist())) == 2
    assert starts[1].tolist() == [0.0, 0.0]


def pack_of(algorithm: Algorithm) -> Pack:
    """Two replicas."""
    return Pack([algorithm, algorithm], DIMS, [0, 1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("log_value", "excess", "gradient"),
    [(0.0, 0.3, -0.3), (0.0, -0.3, 0.3), (10.0, 0.3, 0.0), (12.0, -0.3, 0.3 * 22026.47), (-5.0, -0.3, 0.0)],
)
def test_the_multiplier_rises_while_its_constraint_is_broken(log_value: float, excess: float, gradient: float) -> None:
    multiplier = Multiplier().double()
    multiplier.log_value.data.fill_(log_value)
    (found,) = torch.autograd.grad(multiplier.ascent(torch.tensor(excess).double()), multiplier.log_value)
    assert float(found) == pytest.approx(gradient)


@pytest.mark.parametrize(("value", "excess", "reached"), [(1.0, 0.3, 1.03), (0.01, -0.3, 0.005), (1.99, 0.3, 2.0)])
def test_a_linear_multiplier_steps_by_the_excess_up_to_its_bounds(value: float, excess: float, reached: float) -> None:
    multiplier, rate = LinearMultiplier(0.005, 2.0).double(), torch.tensor(0.1).double()
    multiplier.value.data.fill_(value)
    (found,) = torch.autograd.grad(multiplier.ascent(torch.tensor(excess).double(), rate), multiplier.value)
    assert value - 0.1 * float(found) == pytest.approx(reached)


def shift_of(scene: Scene, action: Tensor) -> Tensor:
    """The gradient of the target critics' mean with respect to actions, by autograd."""
    leaf = action.detach().requires_grad_()
    return torch.autograd.grad(scene.nets["critic_target"](scene.batch.state, leaf).mean(dim=0).sum(), leaf)[0]


def denoised(scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noised actions, their sigma_t, the noise, and what the actor makes of them."""
    policy, state = DiffusionPolicy(), scene.batch.state
    t, eps = scene.noise["bc_t"], scene.noise["bc_eps"]
    abar = torch.tensor(policy.process.alphas_cumprod, dtype=torch.float64)[t].unsqueeze(-1)
    noisy = abar.sqrt() * scene.batch.action + (1 - abar).sqrt() * eps
    return noisy, (1 - abar).sqrt(), eps, scene.nets["actor"](noisy, t, state)


@pytest.mark.parametrize("learns_eta", [False, True])
def test_dac_fits_the_noise_that_its_critics_shift(learns_eta: bool) -> None:
    """Its gradient is that of eta * |eps_theta - (eps - sigma_t * grad Q / (2 eta |Q|))|^2 (eq. 11)."""
    eta = 1.0 if learns_eta else 0.3
    scene = with_gradients(DAC(eta=0.3, learns_eta=learns_eta))
    noisy, sigma, eps, predicted = denoised(scene)
    scale = scene.nets["critic_target"](scene.batch.state, scene.batch.action).abs().mean()
    shifted = eps - sigma * shift_of(scene, noisy) / (2 * eta * scale)
    wanted = gradient_of(eta * (predicted - shifted.detach()).square().mean(), scene)
    torch.testing.assert_close(
        gradient_of(scene.loss("actor"), scene), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max())
    )


def test_dac_raises_eta_while_actions_are_badly_denoised() -> None:
    for threshold, sign in ((0.0, -1.0), (1e3, 1.0)):
        scene = Scene(DAC(learns_eta=True, threshold=threshold))
        row = scene.pack.state.parameters["eta"].requires_grad_()
        scene.nets["eta"] = scene.pack.layouts["eta"].bind(row[0])
        assert float(torch.autograd.grad(scene.loss("eta"), row)[0].sum()) * sign > 0


def test_dac_backs_up_the_mean_of_candidates_and_a_lower_bound_of_critics() -> None:
    scene = Scene(DAC(backup_candidates=3))
    state = scene.batch.next_state.repeat_interleave(3, dim=0)
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, strip_prefix("target", scene.noise))
    q = scene.nets["critic_target"](state, actions).view(-1, BATCH, 3).mean(dim=2)
    beta = LowerBoundEnsemble(DIMS.state, DIMS.action).beta
    following = q.mean(dim=0) - beta * q.std(dim=0, unbiased=False)
    target = scene.batch.reward + 0.99 * (1 - scene.batch.terminal) * following
    wanted = (scene.nets["critic"](scene.batch.state, scene.batch.action) - target).square().mean()
    assert float(scene.loss("critic")) == pytest.approx(float(wanted))


def test_qsm_matches_its_score_to_the_critics_gradient() -> None:
    """Without the data's own term eps_theta is pulled to -sigma_t * grad Q / (temperature * mean |grad Q|)."""
    scene = with_gradients(QSM(temperature=0.5, alpha=0.0))
    noisy, sigma, _, predicted = denoised(scene)
    gradient = shift_of(scene, noisy)
    wanted = (predicted + sigma * gradient / (0.5 * (gradient.abs().mean() + 1e-6))).square().mean()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted), rel=1e-4)
    beside = Scene(QSM(temperature=0.5, alpha=2.0))
    bc_loss = (denoised(beside)[3] - beside.noise["bc_eps"]).square().mean()
    assert float(beside.loss("actor") - scene.loss("actor")) == pytest.approx(2 * float(bc_loss), rel=1e-4)


@pytest.mark.parametrize("algorithm", [DAC(policy="gaussian"), QSM(policy=lambda: DiffusionPolicy(prediction="x0"))])
def test_what_fits_noise_wants_a_policy_that_predicts_it(algorithm: Algorithm) -> None:
    with pytest.raises(ConfigError, match=r"must be a diffusion that predicts eps, not ('gaussian'|DiffusionPolicy)"):
        Scene(algorithm).loss("actor")


def squashed(scene: Scene, state: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(u) and their log-densities, by PyTorch's distributions."""
    mean, log_std = scene.nets["actor"](state).chunk(2, dim=1)
    law = TransformedDistribution(Normal(mean, log_std.clamp(-5, 2).exp()), [TanhTransform(cache_size=1)])
    action = (mean + law.base_dist.scale * eps).tanh()
    return action, law.log_prob(action).sum(dim=1)


def test_edac_is_soft_actor_critic_with_the_lowest_of_many_critics() -> None:
    """J_pi = alpha log pi - min Q; y = r + gamma (min Q' - alpha log pi'); alpha ascends log pi - A (target -A)."""
    scene = with_gradients(EDAC(eta=0.0, slope_floor=0.0))
    scene.pack.state.parameters["temperature"][:, 0] = -1.5
    batch, nets, alpha = scene.batch, scene.nets, math.exp(-1.5)
    action, log_prob = squashed(scene, batch.state, scene.noise["actor_eps"])
    wanted = (alpha * log_prob - nets["critic"](batch.state, action).amin(dim=0)).mean()
    assert float(scene.loss("actor").detach()) == pytest.approx(float(wanted.detach()))
    torch.testing.assert_close(gradient_of(scene.loss("actor"), scene), gradient_of(wanted, scene))
    action, log_prob = squashed(scene, batch.next_state, scene.noise["target_eps"])
    following = nets["critic_target"](batch.next_state, action).amin(dim=0) - alpha * log_prob
    target = batch.reward + 0.99 * (1 - batch.terminal) * following
    wanted = (nets["critic"](batch.state, batch.action) - target).square().mean(dim=1).sum()
    assert float(scene.loss("critic").detach()) == pytest.approx(float(wanted.detach()))
    row = scene.pack.state.parameters["temperature"].requires_grad_()
    nets["temperature"] = scene.pack.layouts["temperature"].bind(row[0])
    log_prob = squashed(scene, batch.state, scene.noise["entropy_eps"])[1].mean()
    found = torch.autograd.grad(scene.loss("temperature"), row)[0].sum()
    assert float(found) == pytest.approx(float(DIMS.action - log_prob.detach()))


def cosines(scene: Scene, row: Tensor) -> Tensor:
    """Sum over ordered pairs of critics of the cosine of their gradients, mean over the batch, over M - 1."""
    leaf = scene.batch.action.clone().requires_grad_()
    values = scene.pack.layouts["critic"].bind(row)(scene.batch.state, leaf)
    each = [torch.autograd.grad(value.sum(), leaf, create_graph=True)[0] for value in values]
    pairs = [torch.cosine_similarity(one, other, dim=1) for one, other in permutations(each, 2)]
    return torch.stack(pairs).sum(dim=0).mean() / (len(each) - 1)


@pytest.mark.parametrize("as_one", [False, True])
def test_edac_keeps_its_critics_gradients_apart(as_one: bool) -> None:
    """eta times `cosines` is added to SAC-N's loss, and eta times their gradient to its gradient."""
    losses, gradients = [], []
    for eta in (0.0, 0.7):
        scene = Scene(EDAC(eta=eta, critic=lambda *sizes: MinimumEnsemble(*sizes, n_critics=4)))
        row = scene.pack.state.parameters["critic"].requires_grad_()
        scene.nets["critic"] = scene.pack.layouts["critic"].bind(row[0], as_one)
        losses.append(scene.loss("critic"))
        gradients.append(torch.autograd.grad(losses[-1], row)[0])
    wanted = 0.7 * cosines(scene, row[0])
    assert float((losses[1] - losses[0]).detach()) == pytest.approx(float(wanted.detach()))
    of_it = torch.autograd.grad(wanted, row)[0]
    torch.testing.assert_close(gradients[1] - gradients[0], of_it, rtol=1e-4, atol=1e-6)
    assert float(of_it.norm()) > 1


@pytest.mark.parametrize("policy", ["deterministic", lambda: TanhGaussianPolicy(squashed=False)])
def test_edac_wants_a_policy_with_a_density(policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"EDAC\.policy must be a Gaussian squashed by tanh"):
        Scene(EDAC(policy=policy))


def test_edac_wants_more_than_one_critic_to_keep_apart() -> None:
    one = lambda *sizes: MinimumEnsemble(*sizes, n_critics=1)  # noqa: E731
    with pytest.raises(ConfigError, match=r"must have two at least, or EDAC\.eta be 0"):
        Scene(EDAC(critic=one))
    assert Scene(EDAC(critic=one, eta=0.0)).loss("critic").isfinite()


def best_sample(scene: Scene, state: Tensor, start: Tensor) -> Tensor:
    """The best of 6 samples of the flow, by the online critics."""
    repeated = state.repeat(6, 1)
    actions = RectifiedFlowPolicy().sample(scene.nets["actor"], DIMS, repeated, {"start": start})
    q = scene.nets["critic"](repeated, actions)
    q = q.amin(dim=0) if isinstance(scene.algorithm, IFQL) else q.mean(dim=0)
    return actions.view(6, len(state), -1)[q.view(6, -1).argmax(dim=0), torch.arange(len(state))]


SIX = lambda: Argmax(n_candidates=6)  # noqa: E731


@pytest.mark.parametrize("algorithm", [IFQL(selection=SIX), BestOfN(selection=SIX)])
def test_ifql_and_best_of_n_act_by_the_online_critics(algorithm: IFQL | BestOfN) -> None:
    scene = Scene(algorithm)
    noise = one_noise(algorithm.act_noise(DIMS, BATCH))
    wanted = best_sample(scene, scene.batch.state, noise["chain_start"])
    assert torch.equal(algorithm.act(DIMS, scene.nets, scene.batch.state, noise), wanted)
    assert algorithm.joint_update
    assert algorithm.targets() == {"critic_target": Target("critic", "tau", lags=True)}


def test_best_of_n_backs_up_what_it_would_do() -> None:
    """y = r + gamma * mean Q'(s', a*), a* the online critics' best; the actor clones, whatever they say."""
    scene = with_gradients(BestOfN(selection=SIX))
    batch, nets = scene.batch, scene.nets
    action = best_sample(scene, batch.next_state, scene.noise["target_chain_start"])
    target = batch.reward + 0.99 * (1 - batch.terminal) * nets["critic_target"](batch.next_state, action).mean(dim=0)
    wanted = (nets["critic"](batch.state, batch.action) - target).square().mean()
    assert float(scene.loss("critic").detach()) == pytest.approx(float(wanted.detach()))
    start, t = scene.noise["bc_start"], scene.noise["bc_t"]
    x = start + t[:, None] * (batch.action - start)
    wanted = (nets["actor"](x, 100 * t, batch.state) - (batch.action - start)).square().mean()
    torch.testing.assert_close(gradient_of(scene.loss("actor"), scene), gradient_of(wanted, scene))


def test_ifql_is_implicit_q_learning_beside_a_cloned_flow() -> None:
    scene = Scene(IFQL(critic=lambda *sizes: MinimumEnsemble(*sizes, n_critics=2)))
    batch, nets = scene.batch, scene.nets
    u = nets["critic_target"](batch.state, batch.action).amin(dim=0) - nets["value"](batch.state)
    wanted = torch.where(u < 0, 0.3, 0.7) * u.square()
    assert float(scene.loss("value")) == pytest.approx(float(wanted.mean()))
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(nets["value"](batch.next_state))))
    start, t = scene.noise["start"], scene.noise["t"]
    x = start + t[:, None] * (batch.action - start)
    wanted = (nets["actor"](x, 100 * t, batch.state) - (batch.action - start)).square()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted.mean()))


def check_actor(scene: Scene, wanted: Tensor) -> None:
    """The actor's loss and its gradient are those of a sum written out."""
    found = scene.loss("actor")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient_of(found, scene), gradient_of(wanted, scene), rtol=1e-6, atol=1e-9)


def edm_loss(scene: Scene, action: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """Karras et al. 2022, eq. 8 with the coefficients of table 1: sigma_data 0.5, weight 1 / c_out^2."""
    sigma = EDMPolicy().training_sigma(noise["level"]).unsqueeze(-1)
    x, total = action + sigma * noise["eps"], sigma**2 + 0.25
    output = scene.nets["behaviour"](x / total.sqrt(), sigma.squeeze(-1).log() / 4, scene.batch.state)
    found = (0.25 / total * x + sigma * 0.5 / total.sqrt() * output).clamp(-1, 1)
    return ((found - action).square() * total / (sigma * 0.5) ** 2).mean()


def test_dtql_is_trust_and_the_lower_q() -> None:
    """alpha * the behaviour model's loss of the actor's actions + bc_weight * L_bc - mean min Q."""
    scene = with_gradients(DTQL(alpha=3.0, bc_weight=0.5))
    batch, policy = scene.batch, TanhGaussianPolicy()
    action = policy.sample(scene.nets["actor"], DIMS, batch.state, strip_prefix("actor", scene.noise))
    q = scene.nets["critic"](batch.state, action).amin(dim=0)
    log_prob = policy.log_prob(scene.nets["actor"], DIMS, batch.state, batch.action)
    wanted = 3 * edm_loss(scene, action, strip_prefix("trust", scene.noise)) - 0.5 * log_prob.mean() - q.mean()
    check_actor(scene, wanted)
    cloning = edm_loss(scene, batch.action, strip_prefix("behaviour", scene.noise))
    assert float(scene.loss("behaviour")) == pytest.approx(float(cloning))


def test_dtql_learns_v_from_its_online_critics_and_these_from_v() -> None:
    scene = Scene(DTQL())
    state, value = scene.batch.state, scene.nets["value"]
    u = scene.nets["critic"](state, scene.batch.action).amin(dim=0) - value(state)
    assert float(scene.loss("value")) == pytest.approx(float((torch.where(u < 0, 0.3, 0.7) * u**2).mean()))
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(value(scene.batch.next_state))))


@pytest.mark.parametrize(
    ("algorithm", "reached"),
    [
        (DTQL(), {"behaviour": {"behaviour"}, "value": {"value"}, "critic": {"critic"}}),
        (BDPO(), {"behaviour": {"behaviour"}, "value": {"value"}, "critic": {"critic"}}),
    ],
)
def test_values_and_clones_get_gradients_of_their_own_losses_alone(
    algorithm: Algorithm, reached: dict[str, set[str]]
) -> None:
    scene = Scene(algorithm)
    for loss, wanted in reached.items():
        found = gradients_of(scene, loss)
        assert {name for name, some in found.items() if some} == wanted


def test_an_edm_is_trained_at_truncated_log_logistic_noise_levels() -> None:
    """A share of logistic((log sigma - log 0.5) / 0.5) between its values at both ends lies below sigma."""
    levels = torch.linspace(0, 1, 11).double()
    sigma = EDMPolicy().training_sigma(levels)
    assert float(sigma[0]) == pytest.approx(0.002)
    assert float(sigma[-1]) == pytest.approx(80.0)
    below = torch.sigmoid((sigma.log() - math.log(0.5)) / 0.5)
    torch.testing.assert_close((below - below[0]) / (below[-1] - below[0]), levels)


def test_the_kl_of_a_chain_is_the_sum_of_that_of_its_steps() -> None:
    """Against Monte Carlo: the mean of log p(chain) - log q(chain) over chains of p; steps have variance beta_t."""
    process = DiffusionPolicy().process
    generator, count = torch.Generator().manual_seed(0), 200_000
    x = torch.randn(count, 2, generator=generator).double()
    kl, log_ratio = torch.zeros(count).double(), torch.zeros(count).double()
    for t in reversed(range(process.n_timesteps)):
        ours, theirs = 0.3 * x.sin() + 0.1 * t, 0.1 * x
        kl = kl + process.kernel_kl(t, ours, theirs)
        beta, sigma = process.betas[t], process.sigma(t)
        means = [(x - beta / sigma * eps) / math.sqrt(1 - beta) for eps in (ours, theirs)]
        x = means[0] + math.sqrt(beta) * torch.randn(x.shape, generator=generator).double()
        squares = [(x - mean).square().sum(dim=1) for mean in means]
        log_ratio = log_ratio + (squares[1] - squares[0]) / (2 * beta)
    error = float(log_ratio.std()) / math.sqrt(count)
    assert float(kl.mean()) > 20 * error
    assert float(log_ratio.mean()) == pytest.approx(float(kl.mean()), abs=4 * error)
    rows = torch.arange(5)
    each = torch.stack([process.kernel_kl(t, x[t], 0.5 * x[t]) for t in range(5)])
    torch.testing.assert_close(process.kernel_kl(rows, x[:5], 0.5 * x[:5]), each)


CANDIDATES = 3


def bdpo() -> Scene:
    """Three candidates, three critics whose mean minus half a standard deviation counts, eta 0.4."""
    lcb = partial(LowerBoundEnsemble, n_critics=3, beta=0.5)
    scene = Scene(BDPO(critic=lcb, eta=0.4, candidates=CANDIDATES))
    scene.pack.state.parameters["actor"].mul_(1.3)
    scene.pack.state.targets["actor_ema"].mul_(1.2)
    return scene


def lower_bound(values: Tensor) -> Tensor:
    return values.mean(dim=0) - 0.5 * values.std(dim=0, unbiased=False)


def reverse_step(x: Tensor, t: int, eps: Tensor) -> Tensor:
    """The posterior's mean of the clipped x_0 (Ho et al. 2020, eq. 7)."""
    betas = torch.tensor(DiffusionPolicy().process.betas).double()
    abar = torch.cat([torch.ones(1).double(), (1 - betas).cumprod(0)])
    start = ((x - (1 - abar[t + 1]).sqrt() * eps) / abar[t + 1].sqrt()).clamp(-1, 1)
    of_start, of_x = abar[t].sqrt() * betas[t], (1 - betas[t]).sqrt() * (1 - abar[t])
    return (of_start * start + of_x * x) / (1 - abar[t + 1])


def step_kl(t: int, eps: Tensor, other: Tensor) -> Tensor:
    process = DiffusionPolicy().process
    beta = process.betas[t]
    return beta / (1 - beta) / process.sigma(t) ** 2 / 2 * (eps - other).square().sum(dim=1)


def test_bdpo_backs_up_q_minus_the_kl_of_whole_chains() -> None:
    scene = bdpo()
    noise, actor, clone = strip_prefix("target", scene.noise), scene.nets["actor_ema"], scene.nets["behaviour_ema"]
    state = scene.batch.next_state.repeat_interleave(CANDIDATES, dim=0)
    x, kl = noise["start"], torch.zeros(len(state)).double()
    for t in (4, 3, 2, 1, 0):
        time = torch.full((len(state),), t)
        eps = actor(x, time, state)
        kl = kl + step_kl(t, eps, clone(x, time, state))
        x = reverse_step(x, t, eps) + (t > 0) * math.sqrt(DiffusionPolicy().process.betas[t]) * noise["noise"][t]
    q = scene.nets["critic_target"](state, x).view(3, BATCH, CANDIDATES).mean(dim=2)
    following = lower_bound(q) - 0.4 * kl.view(BATCH, CANDIDATES).mean(dim=1)
    target = scene.batch.reward + 0.99 * (1 - scene.batch.terminal) * following
    wanted = (scene.nets["critic"](scene.batch.state, scene.batch.action) - target).square().mean()
    assert float(scene.loss("critic")) == pytest.approx(float(wanted))


def worth_of_a_step(scene: Scene, name: str, use: str) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t, and what a step is worth, row by row: Q where it ends the chain, V one timestep on elsewhere."""
    noise, process, worth, noisy = strip_prefix(use, scene.noise), DiffusionPolicy().process, [], []
    for row, (state, action) in enumerate(zip(scene.batch.state, scene.batch.action, strict=True)):
        t, state = int(noise["t"][row]), state.unsqueeze(0)
        x = process.alpha(t) * action.unsqueeze(0) + process.sigma(t) * noise["eps"][row]
        eps, other = (scene.nets[each](x, torch.tensor([t]), state) for each in (name, "behaviour_ema"))
        draws = noise["step"][CANDIDATES * row : CANDIDATES * (row + 1)]
        following = reverse_step(x, t, eps) + (t > 0) * math.sqrt(process.betas[t]) * draws
        states = state.expand(CANDIDATES, -1)
        later = (torch.full((CANDIDATES,), t - 1),) if t else ()
        values = scene.nets["value_target" if t else "critic_target"](states, following, *later)
        worth.append(lower_bound(values.mean(dim=1)) - 0.4 * step_kl(t, eps, other).squeeze(0))
        noisy.append(x)
    return torch.cat(noisy), noise["t"], torch.stack(worth)


def test_bdpo_learns_the_worth_of_single_steps() -> None:
    scene = bdpo()
    x, t, worth = worth_of_a_step(scene, "actor_ema", "value")
    assert 0 in t
    wanted = (scene.nets["value"](scene.batch.state, x, t) - worth).square().mean()
    assert float(scene.loss("value")) == pytest.approx(float(wanted))
    with_gradients(scene)
    check_actor(scene, -worth_of_a_step(scene, "actor", "actor")[2].mean())


def test_bdpo_begins_as_its_clone_at_no_cost() -> None:
    """The KL is 0 there, and its gradient too: the actor's comes from values alone."""
    gin.parse_config(["BDPO.pretrain_steps = 3", "BDPO.warmup_steps = 0"])
    pack = Pack([BDPO()], DIMS, [0], dtype=torch.float64)
    noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    kls = [pack.update(make_batch(), noise).get("actor/kl") for _ in range(5)]
    assert kls[:3] == [None] * 3
    assert float(kls[3]) == float(kls[4]) == 0.0  # the actor is updated at every fifth step alone
