"""What a policy class is to an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dqlab.config.fields import check_fields
from dqlab.config.registry import Registry
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec


@dataclass(frozen=True)
class Dims:
    """Sizes: S; A; the bound of [-max_action, max_action]^A; h = chunk, how many of the environment's actions A has."""

    state: int
    action: int
    max_action: float = 1.0
    chunk: int = 1


class Policy(ABC):
    """How actions are made; parameters come bound in a `Network`, randomness as data.

    Subclasses are frozen dataclasses whose fields gin can set.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def build(self, dims: Dims) -> nn.Module:
        """A freshly initialised network."""

    @abstractmethod
    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Behaviour-cloning losses (B,) of actions (B, A) taken in states (B, S), one a row."""

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The randomness that `losses` needs: none."""
        return {}

    @abstractmethod
    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) for states (B, S), differentiable with respect to the network's parameters."""

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The randomness that `sample` needs: none."""
        return {}

    def act(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) as in evaluation where no candidates are ranked: a sample by its `noise`, or what is surer."""
        return self.sample(network, dims, state, noise)


policies: Registry[Callable[[], Policy]] = Registry(
    "policy", "How an action is made from a state and noise.", "BehaviourCloning.policy"
)


def add_prefix(prefix: str, specs: dict[str, NoiseSpec]) -> dict[str, NoiseSpec]:
    """Noise specs under `prefix_name`, so that one update can hold several of them."""
    return {f"{prefix}_{name}": spec for name, spec in specs.items()}


def strip_prefix(prefix: str, noise: Noise) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix_`, without it: the inverse of `add_prefix`."""
    return {name.removeprefix(f"{prefix}_"): value for name, value in noise.items() if name.startswith(f"{prefix}_")}
