"""A selection: which of C candidate actions is taken."""

from dataclasses import dataclass

from torch import Tensor

from dqlab.config.fields import PositiveFloat
from dqlab.noise import NoiseSpec, gumbel
from dqlab.policies import selections
from dqlab.policies.selection import Selection


@selections.register("dqlab_plugin_cwp", source="Wang et al. 2020 (CRR), critic weighted policy")
@dataclass(frozen=True)
class DqlabPluginCWP(Selection):
    """Draw a candidate with probability softmax(mean over critics of Q / beta).

    Attributes:
        n_candidates: C, candidate actions a state.
        beta: the temperature.
    """

    n_candidates: int = 10
    beta: PositiveFloat = 1.0

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """Gumbel noise (C, B): argmax(logits + gumbel) is a draw from softmax(logits)."""
        return {"choice": gumbel(self.n_candidates, batch)}

    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        """Index (B,) of the drawn candidates (C, B, A), whose values are q (M, C, B)."""
        return (q.mean(dim=0) / self.beta + noise["choice"]).argmax(dim=0)
