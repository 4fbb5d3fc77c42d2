"""What a denoiser is trained to predict, the x_0 that its output stands for, and its loss's weights over timesteps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dqlab.config.fields import PositiveFloat, check_fields
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
        alpha, sigma = process.scales(t, start)
        return alpha * eps - sigma * start

    def start(self, process: Process, x: Tensor, t: int | Tensor, output: Tensor) -> Tensor:
        """alpha_t x_t - sigma_t v."""
        alpha, sigma = (process.alpha(t), process.sigma(t)) if isinstance(t, int) else process.scales(t, x)
        return alpha * x - sigma * output

    def error_ratio(self, snr: float) -> float:
        return snr + 1


@dataclass(frozen=True)
class LossWeighting(ABC):
    """How much a timestep's squared error counts. Subclasses are frozen dataclasses whose fields gin can set.

    A weight of x_0's error, divided by the prediction's `error_ratio`, gives the same loss whatever is predicted.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, prediction: Prediction, snr: float) -> float:
        """Weight of the squared error of the denoiser's output at a signal-to-noise ratio, at least 0."""

    def weights(self, prediction: Prediction, process: Process) -> tuple[float, ...]:
        """The weights of all N timesteps."""
        return tuple(float(self(prediction, process.snr(t))) for t in range(process.n_timesteps))


loss_weightings: Registry[Callable[[], LossWeighting]] = Registry(
    "loss_weighting", "How much each timestep counts in the denoising loss.", "DiffusionPolicy.weighting"
)


@loss_weightings.register(
    "uniform", source="Ho et al. 2020, eq. 14; Diffusion-QL", cites=("ho2020denoising", "wang2023diffusion")
)
@dataclass(frozen=True)
class UniformWeighting(LossWeighting):
    """1 for the squared error of whatever is predicted."""

    def __call__(self, prediction: Prediction, snr: float) -> float:
        return 1.0


@loss_weightings.register("min_snr", source="Hang et al. 2023 (Min-SNR-gamma)", cites=("hang2023efficient",))
@dataclass(frozen=True)
class MinSNR(LossWeighting):
    """min(SNR, gamma) for x_0: timesteps with little noise count no more than gamma.

    Attributes:
        gamma: the bound; for eps the weight is min(SNR, gamma) / SNR, for v min(SNR, gamma) / (SNR + 1).
    """

    gamma: PositiveFloat = 5.0

    def __call__(self, prediction: Prediction, snr: float) -> float:
        return min(snr, self.gamma) / prediction.error_ratio(snr)


@loss_weightings.register(
    "snr", source="Salimans & Ho 2022, section 4 (SNR weighting)", cites=("salimans2022progressive",)
)
@dataclass(frozen=True)
class SNR(LossWeighting):
    """SNR for x_0, which is 1 for eps: the usual loss, whatever is predicted."""

    def __call__(self, prediction: Prediction, snr: float) -> float:
        return snr / prediction.error_ratio(snr)


@loss_weightings.register(
    "truncated_snr",
    source="Salimans & Ho 2022, section 4 (truncated SNR weighting)",
    cites=("salimans2022progressive",),
)
@dataclass(frozen=True)
class TruncatedSNR(LossWeighting):
    """max(SNR, 1) for x_0: the most noisy timesteps count, too."""

    def __call__(self, prediction: Prediction, snr: float) -> float:
        return max(snr, 1.0) / prediction.error_ratio(snr)


@loss_weightings.register(
    "snr_plus_one", source="Salimans & Ho 2022, section 4 (SNR+1 weighting)", cites=("salimans2022progressive",)
)
@dataclass(frozen=True)
class SNRPlusOne(LossWeighting):
    """SNR + 1 for x_0, which is 1 for v."""

    def __call__(self, prediction: Prediction, snr: float) -> float:
        return (snr + 1) / prediction.error_ratio(snr)
