"""Losses and acting that the authors' recorded updates (test_rivals.py) do not show, against their formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_scenes import Scene, gradient_of, with_gradients
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.cvae_ql import CVAEQL
from dqlab.algorithms.dac import DAC
from dqlab.algorithms.edp import EDP
from dqlab.algorithms.fql import FQL
from dqlab.algorithms.gaussian_ql import GaussianQL
from dqlab.algorithms.idql import IDQL
from dqlab.algorithms.iql import IQL
from dqlab.algorithms.mmd_ql import MMDQL, gaussian_kernel, laplacian, mmd
from dqlab.algorithms.qsm import QSM
from dqlab.algorithms.rebrac import ReBRAC
from dqlab.algorithms.td3_bc import TD3BC
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.networks.ensembles import LowerBoundEnsemble
from dqlab.networks.mlp import Multiplier
from dqlab.policies.diffusion import DiffusionPolicy
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
    for bound, gradient in zip(bounds, 10 * pack.state.moments["critic"][:, 0], strict=True):
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
    own = {key.removeprefix("actor_"): value for key, value in scene.noise.items() if key.startswith("actor_")}
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
    scale = scene.nets["critic_target"](scene.batch.state, scene.batch.action).mean(dim=0).abs().mean()
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
    noise = {name.removeprefix("target_"): value for name, value in scene.noise.items() if name.startswith("target_")}
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, noise)
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
    with pytest.raises(ConfigError, match=r"fits noise: \w+\.policy must be a diffusion that predicts eps"):
        Scene(algorithm).loss("actor")
