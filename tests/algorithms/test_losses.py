"""Every rival's losses against their formulas, worked out here from the networks' outputs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.cvae_ql import CVAEQL
from dqlab.algorithms.edp import EDP
from dqlab.algorithms.fql import FQL
from dqlab.algorithms.gaussian_ql import GaussianQL
from dqlab.algorithms.idql import IDQL
from dqlab.algorithms.iql import IQL
from dqlab.algorithms.mmd_ql import MMDQL, gaussian_kernel, laplacian, mmd
from dqlab.algorithms.td3_bc import TD3BC
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.networks.mlp import Multiplier
from dqlab.policies.cvae import CVAEPolicy
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.gaussian import DeterministicPolicy, TanhGaussianPolicy
from dqlab.policies.selection import Argmax
from dqlab.testing import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.training import Pack


class Scene:
    """One replica, a batch, its noise, and its networks as functions; targets differ from what they follow."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.pack = Pack([algorithm], DIMS, [0], dtype=torch.float64)
        self.algorithm, self.stacked = algorithm, make_batch()
        self.batch = Batch(*(field[0] for field in self.stacked))
        self.noise = one_noise(algorithm.update_noise(DIMS, BATCH))
        for matrix in self.pack.state.targets.values():
            matrix.mul_(0.9)
        rows = {**self.pack.state.parameters, **self.pack.state.targets}
        sources = {name: target.source for name, target in algorithm.targets().items()}
        self.nets = {name: self.pack.layouts[sources.get(name, name)].bind(row[0]) for name, row in rows.items()}
        self.hyper = {name: torch.tensor(value).double() for name, value in algorithm.hyper().items()}

    def loss(self, name: str) -> Tensor:
        return self.pack.trained[name].loss(self.nets, self.batch, self.noise, self.hyper)[0]

    def td(self, following: Tensor) -> Tensor:
        """Sum over critics of the mean squared TD error, discount 0.99."""
        target = self.batch.reward + 0.99 * (1 - self.batch.terminal) * following
        q1, q2 = self.nets["critic"](self.batch.state, self.batch.action)
        return ((q1 - target) ** 2).mean() + ((q2 - target) ** 2).mean()


def tanh_mlp(scene: Scene, name: str, state: Tensor) -> Tensor:
    return DeterministicPolicy().sample(scene.nets[name], DIMS, state, {})


def test_td3_bc_critics_see_smoothed_actions() -> None:
    scene = Scene(TD3BC())
    shift = (0.2 * scene.noise["smoothing"]).clamp(-0.5, 0.5)
    action = (tanh_mlp(scene, "actor_target", scene.batch.next_state) + shift).clamp(-1, 1)
    following = scene.nets["critic_target"](scene.batch.next_state, action).min(dim=0).values
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(following)))


def test_td3_bc_smoothing_scales_with_the_range_and_is_clipped() -> None:
    scene = Scene(replace(TD3BC(), smoothing=10.0, smoothing_clip=0.01))
    shift = 0.01 * scene.noise["smoothing"].sign()
    action = (tanh_mlp(scene, "actor_target", scene.batch.next_state) + shift).clamp(-1, 1)
    following = scene.nets["critic_target"](scene.batch.next_state, action).min(dim=0).values
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(following)), rel=1e-4)


def test_td3_bc_actor_is_equation_4() -> None:
    scene = Scene(TD3BC())
    action = tanh_mlp(scene, "actor", scene.batch.state)
    q = scene.nets["critic"](scene.batch.state, action)[0]
    wanted = -2.5 * q.mean() / q.abs().mean() + ((action - scene.batch.action) ** 2).mean()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted))


def test_td3_bc_actor_and_targets_move_at_every_second_step() -> None:
    pack = Pack([TD3BC()], DIMS, [0], dtype=torch.float64)
    noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    moved = []
    for _ in range(4):
        state = pack.state
        before = [
            state.parameters["actor"].clone(),
            state.targets["critic_target"].clone(),
            state.moments["actor"].clone(),
        ]
        pack.update(make_batch(), noise)
        after = [state.parameters["actor"], state.targets["critic_target"], state.moments["actor"]]
        moved.append([not torch.equal(*pair) for pair in zip(before, after, strict=True)])
    assert moved == [[False] * 3, [True] * 3, [False] * 3, [True] * 3]


def test_a_delayed_network_is_adam_on_its_own_steps() -> None:
    """Its first step has the length of the learning rate, in every direction that has a gradient: Adam's first."""
    pack = Pack([TD3BC()], DIMS, [0], dtype=torch.float64)
    noise, before = make_noise(pack.algorithm.update_noise(DIMS, BATCH)), pack.state.parameters["actor"].clone()
    for _ in range(2):
        pack.update(make_batch(), noise)
    step = (pack.state.parameters["actor"] - before).abs()
    assert float(step.max()) == pytest.approx(3e-4, rel=1e-4)
    assert float(step[step > 0].median()) == pytest.approx(3e-4, rel=1e-2)


def implicit(algorithm: IQL | IDQL) -> tuple[Scene, Tensor, Tensor]:
    scene = Scene(algorithm)
    q = scene.nets["critic_target"](scene.batch.state, scene.batch.action).min(dim=0).values
    return scene, q, scene.nets["value"](scene.batch.state)


@pytest.mark.parametrize("algorithm", [IQL(), IDQL()])
def test_values_are_expectiles_and_critics_follow_them(algorithm: IQL | IDQL) -> None:
    scene, q, v = implicit(algorithm)
    wanted = torch.where(q > v, 0.7, 0.3) * (q - v) ** 2
    assert float(scene.loss("value")) == pytest.approx(float(wanted.mean()))
    of_critics = float(scene.td(scene.nets["value"](scene.batch.next_state)))
    assert float(scene.loss("critic")) == pytest.approx(of_critics / (2 if isinstance(algorithm, IDQL) else 1))


def test_values_critics_and_actor_are_updated_in_the_order_of_the_paper() -> None:
    assert list(IQL().trained(DIMS)) == ["value", "actor", "critic"]
    assert [trained.decays for trained in IQL().trained(DIMS).values()] == [False, True, False]


@pytest.mark.parametrize(("beta", "bound"), [(3.0, 100.0), (500.0, 2.0)])
def test_iql_weighs_the_likelihood_by_the_advantage(beta: float, bound: float) -> None:
    scene, q, v = implicit(IQL(beta=beta, max_weight=bound))
    log_prob = TanhGaussianPolicy().log_prob(scene.nets["actor"], DIMS, scene.batch.state, scene.batch.action)
    weight = (beta * (q - v)).exp().clamp(max=bound)
    assert float(scene.loss("actor")) == pytest.approx(-float((weight * log_prob).mean()))


def test_the_learning_rate_schedule_is_the_actors_alone() -> None:
    pack = Pack([IQL()], DIMS, [0], dtype=torch.float64, learning_rate_factor=lambda step: 0.0)
    before = {name: matrix.clone() for name, matrix in pack.state.parameters.items()}
    pack.update(make_batch(), make_noise(pack.algorithm.update_noise(DIMS, BATCH)))
    same = {name: torch.equal(matrix, pack.state.parameters[name]) for name, matrix in before.items()}
    assert same == {"value": False, "actor": True, "critic": False}


def test_idql_takes_the_best_candidate_of_the_averaged_actor() -> None:
    scene = Scene(IDQL(selection=lambda: Argmax(n_candidates=6)))
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    state = scene.batch.state.repeat(6, 1)
    chain = {key.removeprefix("chain_"): value for key, value in noise.items()}
    actions = DiffusionPolicy().sample(scene.nets["actor_ema"], DIMS, state, chain)
    q = scene.nets["critic_target"](state, actions).min(dim=0).values.view(6, BATCH)
    wanted = actions.view(6, BATCH, -1)[q.argmax(dim=0), torch.arange(BATCH)]
    assert torch.allclose(scene.algorithm.act(DIMS, scene.nets, scene.batch.state, noise), wanted)


def test_edp_ascends_the_reconstruction_of_noised_actions() -> None:
    """x_0 from the very eps that the denoising loss sees: (x_t - sqrt(1 - abar) eps) / sqrt(abar), clipped.

    The critic that is ascended is the one that scales.
    """
    scene = Scene(EDP())
    process, t, eps = DiffusionPolicy().process, scene.noise["bc_t"], scene.noise["bc_eps"]
    abar = torch.tensor(process.alphas_cumprod, dtype=torch.float64)[t].unsqueeze(-1)
    noisy = abar.sqrt() * scene.batch.action + (1 - abar).sqrt() * eps
    predicted = scene.nets["actor"](noisy, t, scene.batch.state)
    action = ((noisy - (1 - abar).sqrt() * predicted) / abar.sqrt()).clamp(-1, 1)
    q1, q2 = scene.nets["critic"](scene.batch.state, action)
    q = q1 if int(scene.noise["coin"]) == 0 else q2
    wanted = ((predicted - eps) ** 2).mean() - 2.0 * q.mean() / q.abs().mean()
    assert float(scene.loss("actor")) == pytest.approx(float(wanted))


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


def test_fql_teaches_the_flow_by_its_own_loss_alone() -> None:
    """No gradient of distillation or Q reaches the flow; none of the flow's loss reaches the one-step policy."""
    algorithm = FQL()
    scene = Scene(algorithm)
    layout, row = scene.pack.layouts["actor"], scene.pack.state.parameters["actor"][0].clone().requires_grad_()
    scene.nets["actor"] = layout.bind(row)
    (whole,) = torch.autograd.grad(scene.loss("actor"), row)
    noise = {key.removeprefix("flow_"): value for key, value in scene.noise.items() if key.startswith("flow_")}
    own = algorithm.resolved_flow.flow_losses(layout.bind(row), DIMS, scene.batch.state, scene.batch.action, noise)
    (of_flow,) = torch.autograd.grad(own.mean(), row)
    names, alone = layout.unflatten(whole), layout.unflatten(of_flow)
    for name in names:
        assert torch.allclose(names[name], alone[name]) == name.startswith("flow"), name


def test_fql_actor_loss_is_the_sum_of_its_parts() -> None:
    scene = Scene(FQL(alpha=3.0))
    info = scene.pack.trained["actor"].loss(scene.nets, scene.batch, scene.noise, scene.hyper)[1]
    parts = info["actor/bc_loss"] + 3.0 * info["actor/distill_loss"] + info["actor/q_loss"]
    assert float(info["actor/loss"]) == pytest.approx(float(parts))
    own = {"start": scene.noise["actor_start"]}
    action = FQL().resolved_flow.sample(scene.nets["actor"], DIMS, scene.batch.state, own)
    assert float(info["actor/q_loss"]) == pytest.approx(-float(scene.nets["critic"](scene.batch.state, action).mean()))


def test_cvae_ql_backs_up_the_best_of_its_perturbed_candidates() -> None:
    """0.75 min + 0.25 max over critics, then the maximum over ten actions."""
    scene = Scene(CVAEQL())
    noise = {key.removeprefix("target_"): value for key, value in scene.noise.items() if key.startswith("target_")}
    state = scene.batch.next_state.repeat_interleave(10, dim=0)
    proposed = CVAEPolicy().sample(scene.nets["generator"], DIMS, state, noise)
    moved = (proposed + scene.nets["actor_target"](state, proposed)).clamp(-1, 1)
    assert 0 < float((moved - proposed).abs().max()) <= 0.05
    q = scene.nets["critic_target"](state, moved)
    mixed = 0.75 * q.min(dim=0).values + 0.25 * q.max(dim=0).values
    assert float(scene.loss("critic")) == pytest.approx(float(scene.td(mixed.view(BATCH, 10).max(dim=1).values)))


def test_gaussian_ql_acts_by_its_mode() -> None:
    scene = Scene(GaussianQL())
    noise = one_noise(scene.algorithm.act_noise(DIMS, BATCH))
    mean, _ = TanhGaussianPolicy().distribution(scene.nets["actor"], DIMS, scene.batch.state)
    assert torch.allclose(scene.algorithm.act(DIMS, scene.nets, scene.batch.state, noise), mean.tanh())


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
