"""MMD-QL: BEAR's constraint (Kumar et al. 2019), Diffusion-QL's rival that matches supports by a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import BestNextAction, CriticFactory, PolicyFactory, SelectionFactory, cloning
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveInt
from dqlab.config.registry import Registry
from dqlab.networks.values import Multiplier
from dqlab.noise import clipped, integers
from dqlab.policies import Policy, policies
from dqlab.policies.base import add_prefix, strip_prefix

Kernel = Callable[[Tensor], Tensor]
kernels: Registry[Kernel] = Registry("kernel", "How alike actions are, from their difference (..., A).", "MMDQL.kernel")


@kernels.register("laplacian", source="Kumar et al. 2019 (BEAR), appendix C", cites=("kumar2019stabilizing",))
def laplacian(difference: Tensor, sigma: float = 20.0) -> Tensor:
    """exp(-|x - y|_1 / (2 sigma))."""
    return (-difference.abs().sum(dim=-1) / (2.0 * sigma)).exp()


@kernels.register("gaussian_kernel", source="Kumar et al. 2019 (BEAR), appendix C", cites=("kumar2019stabilizing",))
def gaussian_kernel(difference: Tensor, sigma: float = 20.0) -> Tensor:
    """exp(-|x - y|_2^2 / (2 sigma))."""
    return (-difference.square().sum(dim=-1) / (2.0 * sigma)).exp()


def mmd(kernel: Kernel, one: Tensor, other: Tensor) -> Tensor:
    """Square root of the biased MMD^2 (B,) of samples (B, n, A) and (B, m, A), as BEAR uses it."""
    pairs = ((one, one), (other, other), (one, other))
    ours, theirs, both = (kernel(x.unsqueeze(2) - y.unsqueeze(1)).mean(dim=(1, 2)) for x, y in pairs)
    return (ours + theirs - 2.0 * both + 1e-6).sqrt()


class GeneratorActor(BestNextAction):
    """An actor beside a `generator` that clones the data; Q_1 ranks, as in BCQ's and BEAR's codes."""

    @property
    def resolved_generator(self) -> Policy:
        return self.resolved_policy

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The generative model, then critics and actor, which see it."""
        return {"generator": cloning(self.resolved_generator, "generator", "bc", dims), **super().trained(dims)}

    def targets(self) -> dict[str, Target]:
        return {"actor_target": Target("actor", "tau"), **super().targets()}

    def ranking(self, nets: Nets, state: Tensor, action: Tensor) -> Tensor:
        """Q_1 (B,), by the online critics."""
        return self.first_q(nets, state, action)


@algorithms.register(
    "mmd_ql",
    source="Kumar et al. 2019 (BEAR), algorithm 1; Diffusion-QL, figure 1 (MMD)",
    cites=("kumar2019stabilizing", "wang2023diffusion"),
)
@dataclass(frozen=True)
class MMDQL(GeneratorActor):
    """A Gaussian policy that ascends Q while its samples stay within an MMD of those of a cloned generative model.

    L = exp(multiplier) * MMD + eta * L_q; the multiplier rises while the MMD is above `threshold`.

    Attributes:
        policy: whose samples act; it must be reparameterised.
        generator: policy class of the generative model, trained by its own loss.
        critic: `soft_clipped` weighs the minimum and the maximum, as BEAR does.
        selection: how it acts; BEAR takes the best of 10.
        kernel: a name from the `kernel` registry, or the function.
        eta: weight of the Q term; with 0 the policy is cloned by its MMD alone.
        threshold: the MMD that is allowed, epsilon.
        match_samples: samples a state, of either side, in the MMD.
        match_noise_clip: bound of the standard normal noise of the actor's samples in the MMD; 0 for none.
        multiplier_spread: standard deviation of the logarithm of the multiplier at the start; if 0 the multiplier is 1.
        backup_candidates: next actions in the TD target, of which the best one counts.
    """

    selection_loss = "actor/mmd"
    next_actor = "actor_target"
    structural = ("match_noise_clip", "multiplier_spread")
    policy: str | PolicyFactory = "gaussian"
    generator: str | PolicyFactory = "cvae"
    critic: str | CriticFactory = "soft_clipped"
    selection: str | SelectionFactory = "argmax"
    kernel: str | Kernel = "laplacian"
    eta: NonNegativeFloat = 1.0
    threshold: float = 0.05
    match_samples: PositiveInt = 10
    match_noise_clip: NonNegativeFloat = 0.0
    multiplier_spread: NonNegativeFloat = 0.0
    backup_candidates: PositiveInt = 10
    multiplier_learning_rate: NonNegativeFloat = 1e-3

    @property
    def resolved_generator(self) -> Policy:
        return policies.choose(self.generator)()

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        generator = self.resolved_generator.build(dims)
        return {"generator": generator, **super().build(dims), "multiplier": Multiplier(self.multiplier_spread)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The generative model and critics, the actor, then the multiplier by what the actor reached."""
        multiplier = TrainedNetwork(partial(self.multiplier_loss, dims), "multiplier_learning_rate")
        return {**super().trained(dims), "multiplier": multiplier}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """`bc_*`, `target_*`, `actor_*` as elsewhere; `ours_*`, `theirs_*`: samples in the MMD."""
        policy, generator, matched = self.resolved_policy, self.resolved_generator, batch * self.match_samples
        ours = policy.sample_noise(dims, matched)
        return {
            **add_prefix("bc", generator.loss_noise(dims, batch)),
            **self.next_value_noise(dims, batch),
            **add_prefix("actor", policy.sample_noise(dims, batch)),
            **add_prefix("ours", {name: clipped(spec, self.match_noise_clip) for name, spec in ours.items()}),
            **add_prefix("theirs", generator.sample_noise(dims, matched)),
            "coin": integers(2),
        }

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """exp(multiplier) * MMD + eta * L_q."""
        distance = self._distance(dims, nets, batch.state, noise)
        action = self.resolved_policy.sample(nets["actor"], dims, batch.state, strip_prefix("actor", noise))
        q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        loss = nets["multiplier"]().detach() * distance + hyper["eta"] * q_loss
        return loss, {"actor/loss": loss, "actor/mmd": distance, "actor/q_loss": q_loss}

    def multiplier_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Dual ascent: the multiplier rises while the MMD is above the threshold."""
        with torch.no_grad():
            excess = self._distance(dims, nets, batch.state, noise) - hyper["threshold"]
        return nets["multiplier"].call("ascent", excess), {"multiplier/value": nets["multiplier"]()}

    def _distance(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """Mean over states of the MMD between samples of actor and generative model, as in BEAR before the tanh."""
        repeated = state.repeat_interleave(self.match_samples, dim=0)
        with torch.no_grad():
            theirs = self.resolved_generator.sample(nets["generator"], dims, repeated, strip_prefix("theirs", noise))
        ours = self.resolved_policy.sample(nets["actor"], dims, repeated, strip_prefix("ours", noise))
        shape = (len(state), self.match_samples, dims.action)
        shares = [(actions / dims.max_action).clamp(-1 + 1e-4, 1 - 1e-4) for actions in (ours, theirs)]
        return mmd(kernels.choose(self.kernel), *(share.atanh().view(shape) for share in shares)).mean()
