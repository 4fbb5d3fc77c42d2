"""What the denoiser is trained to predict, and the x_0 that its output stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dqlab.config.fields import check_fields
from dqlab.config.registry import Registry
from dqlab.diffusion.process import Process


@dataclass(frozen=True)
class Prediction(ABC):
    """A parametrisation of the denoiser's output. Subclasses are frozen dataclasses whose fields gin can set."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def target(self, process: Process, start: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is trained to give (B, A) for x_t made of x_0 `start` (B, A) and `eps` (B, A), t (B,)."""

    @abstractmethod
    def start(self, process: Process, x: Tensor, t: int | Tensor, output: Tensor) -> Tensor:
        """The x_0 (B, A) that an output (B, A) for x_t (B, A) stands for; t is one timestep, or each row's (B,)."""

    @abstractmethod
    def error_ratio(self, snr: float) -> float:
        """The output's squared error, divided by that of the x_0 it stands for, at a signal-to-noise ratio."""


predictions: Registry[Callable[[], Prediction]] = Registry(
    "prediction", "What the denoiser is trained to predict.", "DiffusionPolicy.prediction"
)


@predictions.register(
    "eps", source="Ho et al. 2020, eq. 11, 14; Diffusion-QL", cites=("ho2020denoising", "wang2023diffusion")
)
@dataclass(frozen=True)
class Epsilon(Prediction):
    """The noise eps."""

    def target(self, process: Process, start: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps

    def start(self, process: Process, x: Tensor, t: int | Tensor, output: Tensor) -> Tensor:
        """(x_t - sigma_t eps) / alpha_t."""
        return process.start_from(x, t, output)

    def error_ratio(self, snr: float) -> float:
        return snr


@predictions.register(
    "x0",
    source="Ho et al. 2020, section 3.2; Salimans & Ho 2022, section 4",
    cites=("ho2020denoising", "salimans2022progressive"),
)
@dataclass(frozen=True)
class Start(Prediction):
    """The action x_0."""

    def target(self, process: Process, start: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return start

    def start(self, process: Process, x: Tensor, t: int | Tensor, output: Tensor) -> Tensor:
        return output

    def error_ratio(self, snr: float) -> float:
        return 1.0


@predictions.register("v", source="Salimans & Ho 2022, section 4 and appendix D", cites=("salimans2022progressive",))
@dataclass(frozen=True)
class Velocity(Prediction):
    """The velocity v = alpha_t eps - sigma_t x_0."""

    def target(self, process: Process, start: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """alpha_t eps - sigma_t x_0."""
        alpha, sigma = process.scales(t, start)
        return alpha * eps - sigma * start

    def start(self, process: Process, x: Tensor, t: int | Tensor, output: Tensor) -> Tensor:
        """alpha_t x_t - sigma_t v."""
        if isinstance(t, int):
            return process.alpha(t) * x - process.sigma(t) * output
        alpha, sigma = process.scales(t, x)
        return alpha * x - sigma * output

    def error_ratio(self, snr: float) -> float:
        """SNR + 1."""
        return snr + 1
