"""A noise schedule: the number of diffusion steps N -> betas (N,), float64, inside (0, 1)."""

import torch

from dqlab.diffusion import noise_schedules


@noise_schedules.register("dqlab_plugin_sigmoid", source="Jabri et al. 2023, sigmoid schedule; Chen 2023, algorithm 1")
def dqlab_plugin_sigmoid(n_timesteps: int, start: float = -3.0, end: float = 3.0) -> torch.Tensor:
    """abar(t) falls as a sigmoid from `start` to `end` does, scaled to 1 at t = 0 and to 0 at t = N."""
    curve = torch.linspace(start, end, n_timesteps + 1, dtype=torch.float64).sigmoid()
    abar = (curve[-1] - curve) / (curve[-1] - curve[0])
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
