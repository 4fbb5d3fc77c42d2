"""A critic ensemble: M networks, and what is made of their values."""

from torch import Tensor

from dqlab.errors import ConfigError
from dqlab.networks import critics
from dqlab.networks.ensembles import CriticEnsemble, QNetwork


@critics.register("dqlab_plugin_soft_min", source="Fujimoto et al. 2019 (BCQ), eq. 13")
class DqlabPluginSoftMin(CriticEnsemble):
    """TD targets between the lowest and the highest critic: weight * min + (1 - weight) * max.

    Args:
        state_dim, action_dim: S and A.
        n_critics: M, at least 2.
        hidden_dim: width of the three hidden layers.
        weight: of the minimum (lambda).
    """

    def __init__(
        self, state_dim: int, action_dim: int, n_critics: int = 2, hidden_dim: int = 256, weight: float = 0.75
    ) -> None:
        if n_critics < 2 or not 0 <= weight <= 1:
            raise ConfigError(f"DqlabPluginSoftMin wants 2 critics, a weight in [0, 1], not {n_critics}, {weight}.")
        super().__init__([QNetwork(state_dim, action_dim, hidden_dim) for _ in range(n_critics)])
        self.weight = weight

    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The next state's share (B, Z) of the TD target, from the target critics' outputs (M, B, Z)."""
        return self.weight * outputs.amin(dim=0) + (1 - self.weight) * outputs.amax(dim=0)
