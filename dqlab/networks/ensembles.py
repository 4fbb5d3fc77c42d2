"""Ensembles of M critics that differ in how their values become one.

In each of them the actor ascends one aggregated value, which also scales its loss (`ascend` gives it twice; the coin is
not used). Where nothing else is said, the TD target, the actor and the ranking of candidates use the same aggregate.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dqlab.fields import require
from dqlab.networks.critics import CriticEnsemble, QEnsemble, QNetwork, critics
from dqlab.noise import NoiseSpec, uniform


class AggregatedEnsemble(QEnsemble):
    """One rule says what the ensemble's value is; subclasses give it as `aggregate`."""

    def aggregate(self, values: Tensor) -> Tensor:
        """The ensemble's value (...) of its members' values (M, ...): the minimum."""
        return values.amin(dim=0)

    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The next state's aggregated value (B, 1), of outputs (M, B, 1)."""
        return self.aggregate(outputs)

    def ascend(self, q: Tensor, coin: Tensor) -> tuple[Tensor, Tensor]:
        """The aggregated value (B,), which the actor ascends, and again, to scale its loss."""
        value = self.aggregate(q)
        return value, value

    def rank(self, q: Tensor) -> Tensor:
        """The aggregated value (...) of q (M, ...)."""
        return self.aggregate(q)


@critics.register("ensemble_min", source="An et al. 2021 (SAC-N), section 3")
class MinimumEnsemble(AggregatedEnsemble):
    """The minimum of M critics, for the target, the actor and the ranking.

    Attributes:
        n_critics: M; the paper has 10 to 500, a task.
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
    """


@critics.register("ensemble_mean", source="Park et al. 2025 (FQL)")
@dataclass(eq=False, repr=False)
class MeanEnsemble(AggregatedEnsemble):
    """The mean of M critics, for the target, the actor and the ranking.

    Attributes:
        n_critics: M.
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
        norm_after, norm_eps: LayerNorm after each activation, not before it; what is added to its variance. FQL's code
            has True and 1e-6.
    """

    n_critics: int = 2
    norm_after: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        require(self.norm_eps > 0, self, "norm_eps", "positive")
        super().__post_init__()

    def network(self, n_outputs: int = 1) -> QNetwork:
        """A freshly initialised perceptron that gives so many numbers."""
        inputs, shape = (self.state_dim, self.action_dim), (self.hidden_dim, self.depth)
        norm = (self.norm_after, self.norm_eps)
        return QNetwork(*inputs, *shape, self.activation, self.layer_norm, n_outputs, *norm)

    def aggregate(self, values: Tensor) -> Tensor:
        """The mean (...) of values (M, ...)."""
        return values.mean(dim=0)


@critics.register("ensemble_lcb", source="Ghasemipour et al. 2022 (MSG), but with one target for all members")
@dataclass(eq=False, repr=False)
class LowerBoundEnsemble(AggregatedEnsemble):
    """A lower confidence bound: the mean over critics minus beta times their standard deviation (divisor M).

    MSG trains each member on a target of its own and takes the bound for the actor only; here the bound is also the
    target that all members share.

    Attributes:
        n_critics: M, at least 2; the paper has 64.
        beta: standard deviations below the mean; the paper has 4 and 8.
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
    """

    beta: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_critics >= 2, self, "n_critics", "at least 2")
        require(self.beta >= 0, self, "beta", "at least 0")

    def aggregate(self, values: Tensor) -> Tensor:
        """Mean minus beta standard deviations (...) of values (M, ...)."""
        return values.mean(dim=0) - self.beta * values.std(dim=0, correction=0)


@critics.register("soft_clipped", source="Fujimoto et al. 2019 (BCQ), section 4; Kumar et al. 2019 (BEAR)")
@dataclass(eq=False, repr=False)
class SoftClippedEnsemble(AggregatedEnsemble):
    """Soft clipped double Q: weight * minimum + (1 - weight) * maximum over the critics.

    The actor ascends one of the first two critics, as with `twin`.

    Attributes:
        n_critics: M, at least 2.
        weight: lambda, of the minimum; 1 is clipped double Q.
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
    """

    n_critics: int = 2
    weight: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.weight <= 1, self, "weight", "between 0 and 1")
        require(self.n_critics >= 2, self, "n_critics", "at least 2")

    def ascend(self, q: Tensor, coin: Tensor) -> tuple[Tensor, Tensor]:
        """One of the first two values (B,) by the coin, which the actor ascends, and the other, to scale its loss."""
        return CriticEnsemble.ascend(self, q, coin)

    def aggregate(self, values: Tensor) -> Tensor:
        """The weighted sum of minimum and maximum (...) of values (M, ...)."""
        return self.weight * values.amin(dim=0) + (1 - self.weight) * values.amax(dim=0)


@critics.register("redq", source="Chen et al. 2021 (REDQ), algorithm 1")
@dataclass(eq=False, repr=False)
class REDQ(AggregatedEnsemble):
    """The target uses the minimum over a random subset of the critics, drawn anew at every update.

    The actor ascends the mean over all critics, and candidates are ranked by it.

    Attributes:
        n_critics: M.
        n_subset: m, critics in the subset.
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
    """

    n_subset: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.n_subset <= self.n_critics, self, "n_subset", f"between 1 and {self.n_critics} (n_critics)")

    def noise(self) -> dict[str, NoiseSpec]:
        """Uniform numbers (M,), the highest m of which are the subset."""
        return {"subset": uniform(self.n_critics)}

    def aggregate(self, values: Tensor) -> Tensor:
        """The mean (...) of values (M, ...)."""
        return values.mean(dim=0)

    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The minimum (B, 1) over the subset, of outputs (M, B, 1)."""
        chosen = noise["subset"].topk(self.n_subset).indices
        return outputs.index_select(0, chosen).amin(dim=0)
