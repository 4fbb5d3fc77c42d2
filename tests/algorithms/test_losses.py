"""Losses, their gradients, and acting against formulas; test_rivals.py has the authors' own recorded updates."""

from __future__ import annotations

import math
from functools import partial
from itertools import permutations
from typing import Any

import gin
import pytest
import torch
from made_scenes import Scene
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution, kl_divergence

from dqlab.algorithms import algorithms
from dqlab.algorithms.dac import LinearMultiplier
from dqlab.algorithms.mmd_ql import laplacian, mmd
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.networks.ensembles import LowerBoundEnsemble, MinimumEnsemble
from dqlab.networks.values import Multiplier
from dqlab.policies.base import strip_prefix
from dqlab.policies.diffusion import DiffusionPolicy, EDMPolicy
from dqlab.policies.flow import MeanFlowPolicy, RectifiedFlowPolicy
from dqlab.policies.gaussian import CVAEPolicy, DeterministicPolicy, TanhGaussianPolicy
from dqlab.policies.selection import Argmax
from dqlab.testing import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.training import Pack


def test_td3_bc_smoothing_scales_with_the_range_and_is_clipped() -> None:
    scene = Scene("td3_bc", smoothing=10.0, smoothing_clip=0.01)
    shift = (10 * scene.noise["smoothing"]).clamp(-0.01, 0.01)
    followed = DeterministicPolicy().sample(scene.nets["actor_target"], DIMS, scene.batch.next_state, {})
    following = scene.nets["critic_target"](scene.batch.next_state, (followed + shift).clamp(-1, 1))
    scene.check("critic", scene.td(following.amin(dim=0)))


def test_iql_bounds_its_weights() -> None:
    scene = Scene("iql", beta=500.0, max_weight=2.0)
    state, action = scene.batch.state, scene.batch.action
    advantage = scene.nets["critic_target"](state, action).amin(dim=0) - scene.nets["value"](state)
    log_prob = TanhGaussianPolicy().log_prob(scene.nets["actor"], DIMS, state, action)
    scene.check("actor", -((500 * advantage).exp().clamp(max=2) * log_prob).mean())


def test_idql_takes_the_best_candidate_of_the_averaged_actor() -> None:
    scene = Scene("idql", selection=lambda: Argmax(n_candidates=6))
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    state = scene.batch.state.repeat(6, 1)
    chain = {key.removeprefix("chain_"): value for key, value in noise.items()}
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, chain)
    q = scene.nets["critic_target"](state, actions).amin(dim=0).view(6, BATCH)
    wanted = actions.view(6, BATCH, -1)[q.argmax(dim=0), torch.arange(BATCH)]
    assert torch.allclose(scene.algorithm.act(DIMS, scene.nets, scene.batch.state, noise), wanted)


def test_edp_averages_its_actor_at_every_fifth_update_after_a_thousand() -> None:
    average = algorithms.get("edp")().targets()["actor_ema"]
    assert [done for done in range(1, 1017) if average.updates_at(done - 1)] == [1005, 1010, 1015]


@pytest.mark.parametrize("each", [True, False])
def test_edp_clips_its_critics_one_by_one(each: bool) -> None:
    """Adam's first moment is a tenth of the clipped gradient; two replicas with bounds of their own."""
    bounds = (1e-3, 2e-3)
    make = partial(algorithms.get("edp"), clips_members=each)
    pack = Pack([make(grad_norm=bound) for bound in bounds], DIMS, [0, 1], dtype=torch.float64)
    noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
    pack.update(Batch(*(field.expand(2, *field.shape[1:]) for field in make_batch())), both)
    for bound, gradient in zip(bounds, 10 * pack.state.moments["critic"][0], strict=True):
        norms = gradient.view(2 if each else 1, -1).norm(dim=1)
        assert norms.tolist() == pytest.approx(len(norms) * [bound], rel=1e-2)


@pytest.mark.parametrize(("name", "first"), [("cvae_ql", True), ("mmd_ql", True), ("edp", False)])
def test_bcq_and_bear_rank_by_the_first_online_critic_and_edp_by_the_lower_one(name: str, first: bool) -> None:
    scene = Scene(name)
    state, action = scene.batch.state, scene.batch.action
    q = scene.nets["critic"](state, action)
    assert torch.equal(scene.algorithm.ranking(scene.nets, state, action), q[0] if first else q.amin(dim=0))


def test_a_network_steps_by_what_it_was_trained_after_unless_the_update_is_joint() -> None:
    """FQL's actor sees the critics of before its update, and their targets follow these; or those of after it."""
    losses = set()
    for joint in (True, False):
        pack = Pack([algorithms.get("fql")(joint_update=joint)], DIMS, [0], dtype=torch.float64)
        pack.state.targets["critic_target"].zero_()
        before = pack.state.parameters["critic"].clone()
        info = pack.update(make_batch(), make_noise(pack.algorithm.update_noise(DIMS, BATCH)))
        losses.add(float(info["actor/q_loss"]))
        source = before if joint else pack.state.parameters["critic"]
        assert torch.allclose(pack.state.targets["critic_target"], 0.005 * source)
    assert len(losses) == 2


def test_rebrac_stays_near_the_data_twice() -> None:
    """Critics: r + gamma (min Q' - b2 |a~ - a'|^2). Actor: b1 |pi - a|^2 - Q / mean |Q|, squares summed."""
    scene = Scene("rebrac", actor_bc=0.3, critic_bc=0.7, smoothing=0.1)
    batch, nets, policy = scene.batch, scene.nets, DeterministicPolicy()
    action = policy.sample(nets["actor_target"], DIMS, batch.next_state, {})
    action = (action + (0.1 * scene.noise["smoothing"]).clamp(-0.5, 0.5)).clamp(-1, 1)
    penalty = 0.7 * (action - batch.next_action).square().sum(dim=1)
    scene.check("critic", scene.td(nets["critic_target"](batch.next_state, action).amin(dim=0) - penalty))
    ours = policy.sample(nets["actor"], DIMS, batch.state, {})
    q = nets["critic"](batch.state, ours).amin(dim=0)
    distance = (ours - batch.action).square().sum(dim=1).mean()
    scene.check("actor", 0.3 * distance - q.mean() / q.abs().mean().detach())


def q_loss(scene: Scene, action: Tensor) -> Tensor:
    """What the coin's critic says of actions, over the size of what the other one says."""
    q = scene.nets["critic"](scene.batch.state, action)
    first, second = q if int(scene.noise["coin"]) == 0 else q.flip(0)
    return -first.mean() / second.abs().mean().detach()


def test_gaussian_ql_is_likelihood_plus_q_and_acts_by_its_mode() -> None:
    scene, policy = Scene("gaussian_ql", eta=0.7), TanhGaussianPolicy()
    state, actor = scene.batch.state, scene.nets["actor"]
    log_prob = policy.log_prob(actor, DIMS, state, scene.batch.action)
    scene.check("actor", 0.7 * q_loss(scene, policy.sample(actor, DIMS, state, scene.own("actor"))) - log_prob.mean())
    acted = scene.algorithm.act(DIMS, scene.nets, state, one_noise(scene.algorithm.act_noise(DIMS, BATCH)))
    assert torch.allclose(acted, policy.distribution(actor, DIMS, state)[0].tanh())


def test_mmd_ql_ascends_q_within_a_distance_that_its_multiplier_weighs() -> None:
    """exp(multiplier) * MMD of ten samples each, before the tanh, + 0.7 L_q; the multiplier ascends MMD - 0.05."""
    scene = Scene("mmd_ql", eta=0.7)
    scene.rows["actor"].data.mul_(2.5)
    log_value, policy = scene.parameter("multiplier", "log_value", 1.5), TanhGaussianPolicy()
    state = scene.batch.state.repeat_interleave(10, dim=0)
    ours = policy.sample(scene.nets["actor"], DIMS, state, scene.own("ours"))
    theirs = CVAEPolicy().sample(scene.nets["generator"], DIMS, state, scene.own("theirs"))
    assert bool((ours.abs() > 1 - 1e-4).any()), "what is nearer to the bound counts as there"
    sides = (each.clamp(1e-4 - 1, 1 - 1e-4) for each in (ours, theirs.detach()))
    distance = mmd(laplacian, *(side.atanh().view(BATCH, 10, DIMS.action) for side in sides)).mean()
    action = policy.sample(scene.nets["actor"], DIMS, scene.batch.state, scene.own("actor"))
    scene.check("actor", math.exp(1.5) * distance + 0.7 * q_loss(scene, action))
    scene.check("multiplier", -log_value * math.exp(1.5) * (distance.detach() - 0.05))


def test_bears_choices_of_noise_and_start() -> None:
    """Noise of the actor's samples within +-0.5, all other noise as it was; multipliers that begin where seeds say."""
    make = algorithms.get("mmd_ql")
    both = make(match_noise_clip=0.5, multiplier_spread=1.0), make()
    noise, usual = (one_noise(each.update_noise(DIMS, BATCH)) for each in both)
    clipped = {name for name, value in noise.items() if not torch.equal(value, usual[name])}
    assert clipped == {"ours_eps"}
    assert torch.equal(noise["ours_eps"], usual["ours_eps"].clamp(-0.5, 0.5))
    starts = [Pack([each] * 2, DIMS, [0, 1]).state.parameters["multiplier"][:, 0] for each in both]
    assert len(set(starts[0].tolist())) == 2
    assert starts[1].tolist() == [0.0, 0.0]


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


def denoised(scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of noised actions x_t: sigma_t, the noise, what the actor makes of them, and grad Q by autograd."""
    state, t, eps = scene.batch.state, scene.noise["bc_t"], scene.noise["bc_eps"]
    abar = torch.tensor(DiffusionPolicy().process.alphas_cumprod, dtype=torch.float64)[t].unsqueeze(-1)
    noisy = (abar.sqrt() * scene.batch.action + (1 - abar).sqrt() * eps).requires_grad_()
    q = scene.nets["critic_target"](state, noisy).mean(dim=0).sum()
    return (1 - abar).sqrt(), eps, scene.nets["actor"](noisy, t, state), torch.autograd.grad(q, noisy)[0]


@pytest.mark.parametrize("learns_eta", [False, True])
def test_dac_fits_the_noise_that_its_critics_shift(learns_eta: bool) -> None:
    """Its gradient is that of eta * |eps_theta - (eps - sigma_t * grad Q / (2 eta |Q|))|^2 (eq. 11)."""
    eta = 1.0 if learns_eta else 0.3
    scene = Scene("dac", eta=0.3, learns_eta=learns_eta)
    sigma, eps, predicted, slope = denoised(scene)
    scale = scene.nets["critic_target"](scene.batch.state, scene.batch.action).abs().mean().detach() + 1e-6
    shifted = eps - sigma * slope / (2 * eta * scale)
    scene.check("actor", eta * (predicted - shifted).square().mean(), gradient_alone=True)


def test_dac_learns_eta_by_how_badly_actions_are_denoised_and_backs_up_the_mean_of_candidates() -> None:
    scene = Scene("dac", learns_eta=True, threshold=0.4, backup_candidates=3)
    _, eps, predicted, _ = denoised(scene)
    log_value = scene.parameter("eta", "log_value", 0.5)
    scene.check("eta", -log_value * math.exp(0.5) * ((predicted - eps).square().mean().detach() - 0.4))
    state = scene.batch.next_state.repeat_interleave(3, dim=0)
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, scene.own("target"))
    q = scene.nets["critic_target"](state, actions).view(-1, BATCH, 3).mean(dim=2)
    scene.check("critic", scene.td(q.mean(dim=0) - 4 * q.std(dim=0, unbiased=False), averaged=True))


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_qsm_matches_its_score_to_the_critics_gradient(alpha: float) -> None:
    """eps_theta is pulled to -sigma_t * grad Q / (temperature * mean |grad Q|), and to the data's own noise."""
    scene = Scene("qsm", temperature=0.5, alpha=alpha)
    sigma, eps, predicted, slope = denoised(scene)
    target = -sigma * slope / (0.5 * (slope.abs().mean() + 1e-6))
    scene.check("actor", (predicted - target).square().mean() + alpha * (predicted - eps).square().mean())


def squashed(scene: Scene, state: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(u) and their log-densities, by PyTorch's distributions."""
    mean, log_std = scene.nets["actor"](state).chunk(2, dim=1)
    law = TransformedDistribution(Normal(mean, log_std.clamp(-5, 2).exp()), [TanhTransform(cache_size=1)])
    action = (mean + law.base_dist.scale * eps).tanh()
    return action, law.log_prob(action).sum(dim=1)


def cosines(scene: Scene) -> Tensor:
    """Sum over ordered pairs of critics of the cosine of their gradients, mean over the batch, over M - 1."""
    leaf = scene.batch.action.clone().requires_grad_()
    values = scene.pack.layouts["critic"].bind(scene.rows["critic"][0])(scene.batch.state, leaf)
    each = [torch.autograd.grad(value.sum(), leaf, create_graph=True)[0] for value in values]
    units = [gradient / (gradient.norm(dim=1, keepdim=True) + 1e-10) for gradient in each]
    pairs = [(one * other).sum(dim=1) for one, other in permutations(units, 2)]
    return torch.stack(pairs).sum(dim=0).mean() / (len(each) - 1)


@pytest.mark.parametrize(("eta", "as_one"), [(0.0, False), (0.7, False), (0.7, True)])
def test_edac_is_soft_actor_critic_whose_critics_gradients_are_kept_apart(eta: float, as_one: bool) -> None:
    """J_pi = alpha log pi - min Q; y = r + gamma (min Q' - alpha log pi'); alpha ascends log pi - A (target -A)."""
    four = lambda *sizes: MinimumEnsemble(*sizes, n_critics=4)  # noqa: E731
    scene = Scene("edac", eta=eta, slope_floor=0.0, critic=four)
    batch, nets, alpha = scene.batch, scene.nets, math.exp(-1.5)
    log_value = scene.parameter("temperature", "log_value", -1.5)
    action, log_prob = squashed(scene, batch.state, scene.noise["actor_eps"])
    scene.check("actor", (alpha * log_prob - nets["critic"](batch.state, action).amin(dim=0)).mean())
    log_prob = squashed(scene, batch.state, scene.noise["entropy_eps"])[1].mean().detach()
    scene.check("temperature", log_value * (DIMS.action - log_prob))
    action, log_prob = squashed(scene, batch.next_state, scene.noise["target_eps"])
    following = nets["critic_target"](batch.next_state, action).amin(dim=0) - alpha * log_prob
    nets["critic"] = scene.pack.layouts["critic"].bind(scene.rows["critic"][0], as_one)
    scene.check("critic", scene.td(following) + eta * cosines(scene))


def test_best_of_n_backs_up_what_it_would_do() -> None:
    """y = r + gamma * mean Q'(s', a*), a* the online critics' best; the actor clones, whatever they say."""
    scene = Scene("best_of_n", selection=lambda: Argmax(n_candidates=6))
    batch, nets = scene.batch, scene.nets
    state, noise = batch.next_state.repeat(6, 1), scene.own("target_chain")
    actions = RectifiedFlowPolicy().sample(nets["actor"], DIMS, state, noise)
    best = nets["critic"](state, actions).mean(dim=0).view(6, BATCH).argmax(dim=0)
    action = actions.view(6, BATCH, -1)[best, torch.arange(BATCH)]
    scene.check("critic", scene.td(nets["critic_target"](batch.next_state, action).mean(dim=0), averaged=True))
    scene.check("actor", flow_loss(scene, scene.noise["bc_start"], scene.noise["bc_t"]))


def flow_loss(scene: Scene, start: Tensor, t: Tensor) -> Tensor:
    velocity = scene.batch.action - start
    found = scene.nets["actor"](start + t[:, None] * velocity, 100 * t, scene.batch.state)
    return (found - velocity).square().mean()


@pytest.mark.parametrize(("name", "critic"), [("ifql", "critic_target"), ("dtql", "critic")])
def test_implicit_q_learning_learns_v_and_from_v(name: str, critic: str) -> None:
    """Without an action of the actor's; V from targets, in DTQL from the online critics."""
    scene = Scene(name)
    state, value = scene.batch.state, scene.nets["value"]
    u = scene.nets[critic](state, scene.batch.action).amin(dim=0).detach() - value(state)
    scene.check("value", (torch.where(u < 0, 0.3, 0.7) * u.square()).mean())
    scene.check("critic", scene.td(value(scene.batch.next_state)))


def test_ifql_clones_a_flow() -> None:
    scene = Scene("ifql")
    scene.check("actor", flow_loss(scene, scene.noise["start"], scene.noise["t"]))


def edm_loss(scene: Scene, action: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """Karras et al. 2022, eq. 8 with the coefficients of table 1: sigma_data 0.5, weight 1 / c_out^2."""
    sigma = EDMPolicy().training_sigma(noise["level"]).unsqueeze(-1)
    x, total = action + sigma * noise["eps"], sigma**2 + 0.25
    output = scene.nets["behaviour"](x / total.sqrt(), sigma.squeeze(-1).log() / 4, scene.batch.state)
    found = (0.25 / total * x + sigma * 0.5 / total.sqrt() * output).clamp(-1, 1)
    return ((found - action).square() * total / (sigma * 0.5) ** 2).mean()


def test_dtql_is_trust_and_the_lower_q() -> None:
    """alpha * the behaviour model's loss of the actor's actions + bc_weight * L_bc - mean min Q."""
    scene = Scene("dtql", alpha=3.0, bc_weight=0.5)
    batch, policy, actor = scene.batch, TanhGaussianPolicy(), scene.nets["actor"]
    action = policy.sample(actor, DIMS, batch.state, scene.own("actor"))
    q = scene.nets["critic"](batch.state, action).amin(dim=0)
    log_prob = policy.log_prob(actor, DIMS, batch.state, batch.action)
    scene.check("actor", 3 * edm_loss(scene, action, scene.own("trust")) - 0.5 * log_prob.mean() - q.mean())
    scene.check("behaviour", edm_loss(scene, batch.action, scene.own("behaviour")))


def test_an_edm_is_trained_at_truncated_log_logistic_noise_levels() -> None:
    """A share of logistic((log sigma - log 0.5) / 0.5) between its values at both ends lies below sigma."""
    levels = torch.linspace(0, 1, 11).double()
    sigma = EDMPolicy().training_sigma(levels)
    assert sigma[[0, -1]].tolist() == pytest.approx([0.002, 80.0])
    below = torch.sigmoid((sigma.log() - math.log(0.5)) / 0.5)
    torch.testing.assert_close((below - below[0]) / (below[-1] - below[0]), levels)


CANDIDATES = 3
PROCESS = DiffusionPolicy().process


def bdpo() -> Scene:
    """Three candidates, three critics whose mean minus half a standard deviation counts, eta 0.4."""
    lcb = partial(LowerBoundEnsemble, n_critics=3, beta=0.5)
    scene = Scene("bdpo", critic=lcb, eta=0.4, candidates=CANDIDATES)
    scene.rows["actor"].data.mul_(1.3)
    scene.rows["actor_ema"].data.mul_(1.2)
    return scene


def reverse_step(x: Tensor, t: int, eps: Tensor) -> Tensor:
    """The posterior's mean of the clipped x_0, which test_process.py holds to Bayes' rule."""
    return PROCESS.posterior_mean(PROCESS.start_from(x, t, eps).clamp(-1, 1), x, t)


def step_kl(x: Tensor, t: int, eps: Tensor, other: Tensor) -> Tensor:
    """Of Gaussians of variance beta_t whose means are those of x_0 as it is (Ho et al. 2020, eq. 11)."""
    beta = PROCESS.betas[t]
    means = ((x - beta / PROCESS.sigma(t) * each) / math.sqrt(1 - beta) for each in (eps, other))
    return kl_divergence(*(Normal(mean, math.sqrt(beta)) for mean in means)).sum(dim=1)


def test_bdpo_backs_up_q_minus_the_kl_of_whole_chains() -> None:
    scene = bdpo()
    noise, actor, clone = scene.own("target"), scene.nets["actor_ema"], scene.nets["behaviour_ema"]
    state = scene.batch.next_state.repeat_interleave(CANDIDATES, dim=0)
    x, kl = noise["start"], torch.zeros(len(state)).double()
    for t in (4, 3, 2, 1, 0):
        time = torch.full((len(state),), t)
        eps = actor(x, time, state)
        kl = kl + step_kl(x, t, eps, clone(x, time, state))
        x = reverse_step(x, t, eps) + (t > 0) * math.sqrt(PROCESS.betas[t]) * noise["noise"][t]
    q = scene.nets["critic_target"](state, x).view(3, BATCH, CANDIDATES).mean(dim=2)
    following = lower_bound(q) - 0.4 * kl.view(BATCH, CANDIDATES).mean(dim=1)
    scene.check("critic", scene.td(following, averaged=True))


def worth_of_a_step(scene: Scene, name: str, use: str) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t, and what a step is worth, row by row: Q where it ends the chain, V one timestep on elsewhere."""
    noise, worth, noisy = scene.own(use), [], []
    for row, (state, action) in enumerate(zip(scene.batch.state, scene.batch.action, strict=True)):
        t, state = int(noise["t"][row]), state.unsqueeze(0)
        x = PROCESS.alpha(t) * action.unsqueeze(0) + PROCESS.sigma(t) * noise["eps"][row]
        eps, other = (scene.nets[each](x, torch.tensor([t]), state) for each in (name, "behaviour_ema"))
        draws = noise["step"][CANDIDATES * row : CANDIDATES * (row + 1)]
        following = reverse_step(x, t, eps) + (t > 0) * math.sqrt(PROCESS.betas[t]) * draws
        later = (torch.full((CANDIDATES,), t - 1),) if t else ()
        values = scene.nets["value_target" if t else "critic_target"](state.expand(3, -1), following, *later)
        worth.append(lower_bound(values.mean(dim=1)) - 0.4 * step_kl(x, t, eps, other).squeeze(0))
        noisy.append(x)
    return torch.cat(noisy), noise["t"], torch.stack(worth)


def test_bdpo_learns_the_worth_of_single_steps() -> None:
    scene = bdpo()
    x, t, worth = worth_of_a_step(scene, "actor_ema", "value")
    assert 0 in t
    scene.check("value", (scene.nets["value"](scene.batch.state, x, t) - worth.detach()).square().mean())
    scene.check("actor", -worth_of_a_step(scene, "actor", "actor")[2].mean())


def test_bdpo_begins_as_its_clone_at_no_cost() -> None:
    """The KL is 0 there, and its gradient too: the actor's comes from values alone."""
    gin.parse_config(["BDPO.pretrain_steps = 3", "BDPO.warmup_steps = 0"])
    pack = Pack([algorithms.get("bdpo")()], DIMS, [0], dtype=torch.float64)
    noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    kls = [pack.update(make_batch(), noise).get("actor/kl") for _ in range(5)]
    assert kls[:4] == [None] * 4  # the actor is updated at every fifth step alone
    assert float(kls[4]) == 0.0


FLOW = partial(RectifiedFlowPolicy, n_steps=3)
FEW = partial(LowerBoundEnsemble, n_critics=3, beta=0.5, hidden_dim=16)
SMALL_QAM = {"policy": FLOW, "critic": FEW, "inverse_temperature": 0.7}


def lower_bound(values: Tensor) -> Tensor:
    return values.mean(dim=0) - 0.5 * values.std(dim=0, unbiased=False)


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


UNSQUASHED = lambda: TanhGaussianPolicy(squashed=False)  # noqa: E731
X0 = lambda: DiffusionPolicy(prediction="x0")  # noqa: E731
ONE = lambda *sizes: MinimumEnsemble(*sizes, n_critics=1)  # noqa: E731
UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("edp", {"policy": "gaussian"}, "must be a diffusion"),
    ("fql", {"policy": "gaussian"}, "must be a one-step flow"),
    ("meanflow_ql", {"policy": "gaussian"}, "must be 'mean_flow'"),
    ("dac", {"policy": "gaussian"}, "must be a diffusion that predicts eps, not 'gaussian'"),
    ("qsm", {"policy": X0}, "must be a diffusion that predicts eps, not DiffusionPolicy"),
    ("qam", {"policy": "one_step_flow"}, r"QAM\.policy must be a rectified flow"),
    ("qam_edit", {"edit": UNSQUASHED}, r"QAMEdit\.edit must be a squashed Gaussian"),
    ("edac", {"policy": "deterministic"}, r"EDAC\.policy must be a Gaussian squashed by tanh"),
    ("edac", {"policy": UNSQUASHED}, r"EDAC\.policy must be a Gaussian squashed by tanh"),
    ("edac", {"critic": ONE}, r"must have two at least, or EDAC\.eta be 0"),
]


@pytest.mark.parametrize(("name", "fields", "message"), UNFIT)
def test_components_that_do_not_fit_are_named(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scene(name, **fields).loss("actor")


def test_one_critic_is_enough_for_edac_without_its_term() -> None:
    assert Scene("edac", critic=ONE, eta=0.0).loss("critic").isfinite()


def test_which_update_all_networks_together_unless_told_otherwise() -> None:
    joint = [name for name in algorithms.names() if algorithms.get(name)().joint_update]
    assert joint == ["best_of_n", "edp", "fql", "ifql", "meanflow_ql", "qam", "qam_edit"]
