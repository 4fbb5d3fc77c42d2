"""Networks: ordinary modules (denoisers, critics), and a layout by which K of them are the rows of one matrix."""

from dqlab.networks.critics import critics
from dqlab.networks.denoisers import denoisers
from dqlab.networks.stacking import Layout

__all__ = ["Layout", "critics", "denoisers"]
