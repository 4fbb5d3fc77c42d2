"""Networks: ordinary modules (denoisers, critics), and a layout by which K of them are the rows of one matrix."""

from dqlab.networks.denoiser import denoisers
from dqlab.networks.ensembles import critics
from dqlab.networks.stacking import Layout

__all__ = ["Layout", "critics", "denoisers"]
