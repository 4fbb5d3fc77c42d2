"""Diffusion: the forward process, its noise schedules and its samplers, as pure functions of injected noise."""

from dqlab.diffusion.process import Process
from dqlab.diffusion.sampling import samplers
from dqlab.diffusion.schedules import noise_schedules

__all__ = ["Process", "noise_schedules", "samplers"]
