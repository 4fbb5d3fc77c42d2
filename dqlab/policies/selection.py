"""Which of several candidate actions is taken: the best ones, a draw by softmax of Q, implicit policies, IDQL's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dqlab.config.fields import PositiveFloat, PositiveInt, check_field, check_fields
from dqlab.config.registry import Registry
from dqlab.noise import Noise, NoiseSpec, gumbel, integers


@dataclass(frozen=True)
class Selection(ABC):
    """Chooses among candidates. Subclasses are frozen dataclasses whose fields gin can set.

    Attributes:
        n_candidates: C, candidate actions a state.
    """

    n_candidates: PositiveInt = 50

    def __post_init__(self) -> None:
        check_fields(self)

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """The randomness that choosing for `batch` states needs: none."""
        return {}

    @abstractmethod
    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        """Index (B,) of the candidates that are taken; or (k, B), of which the mean is taken.

        Args:
            candidates: (C, B, A).
            q: their values (M, C, B), one row a critic that the ensemble ranks by; the lowest one counts.
            noise: what `noise` asks for.
            value: the states' values V (B,), where the algorithm has learned them.
        """


@dataclass(frozen=True)
class WeightedSelection(Selection):
    """Draws one candidate with probability proportional to a weight that depends on the candidates' values."""

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """Gumbel noise (C, B), which turns an argmax into the draw."""
        return {"choice": gumbel(self.n_candidates, batch)}

    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        return (self.log_weights(q.amin(dim=0), value) + noise["choice"]).argmax(dim=0)

    @abstractmethod
    def log_weights(self, q: Tensor, value: Tensor | None) -> Tensor:
        """Logarithms (C, B) of the weights, up to a constant, of candidates worth q (C, B) in states worth (B,)."""


selections: Registry[Callable[[], Selection]] = Registry(
    "selection", "Which of the candidate actions is taken.", "DiffusionQL.selection"
)


def take_candidates(candidates: Tensor, index: Tensor) -> Tensor:
    """Actions (B, A): the candidates (C, B, A) at index (B,), or the mean of those at index (k, B)."""
    rows = index.view(-1, candidates.shape[1], 1).expand(-1, -1, candidates.shape[-1])
    chosen = candidates.gather(0, rows)  # by `take_along_dim` an exported program would have one B only
    return chosen.squeeze(0) if len(chosen) == 1 else chosen.mean(dim=0)


@dataclass(frozen=True)
class ImplicitPolicy(WeightedSelection):
    """Draws a candidate with probability proportional to |f'(u)| / |u|, u = Q - V, Q the minimum over critics."""

    n_candidates: int = 64

    def log_weights(self, q: Tensor, value: Tensor | None) -> Tensor:
        return self.log_ratio(q - (self.value_of(q) if value is None else value))

    @abstractmethod
    def value_of(self, q: Tensor) -> Tensor:
        """The V (B,) that minimises the mean of f(q - V) over candidates worth q (C, B)."""

    @abstractmethod
    def log_ratio(self, u: Tensor) -> Tensor:
        """log(|f'(u)| / |u|) of u of any shape, up to a constant; finite everywhere."""


@selections.register(
    "idql_expectile", source="Hansen-Estruch et al. 2023 (IDQL), section 4, expectile", cites=("hansenestruch2023idql",)
)
@dataclass(frozen=True)
class IDQLExpectile(ImplicitPolicy):
    """Draw a candidate with weight |tau - 1(u < 0)|, u = Q - V, V the tau-expectile.

    `tau` is in (0, 1): 0.7 for locomotion, 0.9 for AntMaze.
    """

    tau: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(0 < self.tau < 1, self, "tau", "between 0 and 1, both excluded")

    def log_ratio(self, u: Tensor) -> Tensor:
        """log |tau - 1(u < 0)|: log tau where u >= 0, log(1 - tau) elsewhere; no division by u."""
        return math.log(self.tau) + (u < 0).to(u.dtype) * (math.log(1 - self.tau) - math.log(self.tau))

    def value_of(self, q: Tensor) -> Tensor:
        """The tau-expectile (B,), exactly.

        If the n lowest candidates lie below V, V is the mean with weights 1 - tau of those and tau of the others. The
        condition for V is convex in it (tau >= 0.5) or concave: it is the largest or the smallest mean of n = 0..C.
        """
        summed = q.sort(dim=0).values.cumsum(dim=0)
        below = torch.cat([torch.zeros_like(summed[:1]), summed])
        n = torch.arange(len(below), device=q.device, dtype=q.dtype).unsqueeze(-1)
        share = self.tau * summed[-1] + (1 - 2 * self.tau) * below
        means = share / (self.tau * len(q) + (1 - 2 * self.tau) * n)
        return means.amax(dim=0) if self.tau >= 0.5 else means.amin(dim=0)


@selections.register(
    "idql_quantile", source="Hansen-Estruch et al. 2023 (IDQL), section 4, quantile", cites=("hansenestruch2023idql",)
)
@dataclass(frozen=True)
class IDQLQuantile(IDQLExpectile):
    """Draw a candidate with weight |tau - 1(u < 0)| / |u|, u = Q - V, V the tau-quantile.

    Attributes:
        tau: in (0, 1).
        floor: in units of Q; |u| counts as at least this much, which bounds the weight of a candidate worth just V.
            Without a learned V one candidate often is (the quantile of few values is one of them, or between two).
    """

    floor: PositiveFloat = 1e-3

    def log_ratio(self, u: Tensor) -> Tensor:
        """log |tau - 1(u < 0)| - log max(|u|, floor)."""
        return super().log_ratio(u) - u.abs().clamp(min=self.floor).log()

    def value_of(self, q: Tensor) -> Tensor:
        """The tau-quantile (B,), interpolated linearly between the two nearest of the sorted values."""
        ordered = q.sort(dim=0).values
        position = self.tau * (len(q) - 1)
        lower = ordered[math.floor(position)]
        return lower + (position - math.floor(position)) * (ordered[math.ceil(position)] - lower)


@selections.register(
    "idql_exponential",
    source="Hansen-Estruch et al. 2023 (IDQL), section 4, exponential",
    cites=("hansenestruch2023idql",),
)
@dataclass(frozen=True)
class IDQLExponential(ImplicitPolicy):
    """Draw a candidate with weight alpha |exp(alpha u) - 1| / |u|, u = Q - V, V the log-mean-exp of Q.

    `alpha` is an inverse temperature, in units of 1 / Q.
    """

    alpha: PositiveFloat = 1.0

    def log_ratio(self, u: Tensor) -> Tensor:
        """log(|exp(x) - 1| / |x|), x = alpha u, as max(x, 0) + log((1 - exp(-|x|)) / |x|): no exponential overflows.

        At |x| < 1e-6 the last term is taken at 1e-6, where it is 0 but for 5e-7.
        """
        x = self.alpha * u
        size = x.abs().clamp(min=1e-6)
        return x.relu() + (-torch.expm1(-size) / size).log()

    def value_of(self, q: Tensor) -> Tensor:
        """log(mean(exp(alpha q))) / alpha, (B,), without overflow."""
        return (torch.logsumexp(self.alpha * q, dim=0) - math.log(len(q))) / self.alpha


@selections.register("single", source="the policy as trained; the official code's BC")
@dataclass(frozen=True)
class Single(Selection):
    """Take the one action that was sampled; critics are not asked."""

    n_candidates: int = 1

    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        return torch.zeros(candidates.shape[1], dtype=torch.int64, device=candidates.device)


@selections.register(
    "argmax",
    source="Fujimoto et al. 2019 (BCQ); Hansen-Estruch et al. 2023 (IDQL), evaluation",
    cites=("fujimoto2019off", "hansenestruch2023idql"),
)
@dataclass(frozen=True)
class Argmax(Selection):
    """Take the candidate with the highest min over critics of Q."""

    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        return q.amin(dim=0).argmax(dim=0)


@selections.register(
    "mean_of_best",
    source="the elites' mean of the cross-entropy method (Rubinstein 1999), one round",
    cites=("rubinstein1999cross",),
)
@dataclass(frozen=True)
class MeanOfBest(Selection):
    """Take the mean of the k best candidates.

    Attributes:
        k: how many, at most n_candidates.
    """

    k: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(1 <= self.k <= self.n_candidates, self, "k", f"between 1 and n_candidates ({self.n_candidates})")

    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        """Indices (k, B) of the highest min over critics of Q, the best one first."""
        return q.amin(dim=0).topk(self.k, dim=0).indices


@selections.register(
    "top_k",
    source="top-k sampling (Fan et al. 2018), of actions ranked by Q, all k alike",
    cites=("fan2018hierarchical",),
)
@dataclass(frozen=True)
class TopK(MeanOfBest):
    """Draw one of the k best candidates, each with the same probability."""

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        return {"rank": integers(self.k, batch)}

    def __call__(self, candidates: Tensor, q: Tensor, noise: Noise, value: Tensor | None = None) -> Tensor:
        return super().__call__(candidates, q, noise).gather(0, noise["rank"].unsqueeze(0)).squeeze(0)


@selections.register(
    "softmax_q",
    source="Diffusion-QL's official code (sample_action); not described in the paper",
    cites=("wang2023diffusion",),
)
@dataclass(frozen=True)
class SoftmaxQ(WeightedSelection):
    """Draw a candidate with probability softmax(min over critics of Q / temperature).

    `temperature` is in units of Q.
    """

    temperature: PositiveFloat = 1.0

    def log_weights(self, q: Tensor, value: Tensor | None) -> Tensor:
        return q / self.temperature
