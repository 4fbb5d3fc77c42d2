"""Training: the pack of replicas and its update, what is known before it starts, the loop, and evaluation."""

from dqlab.training.evaluation import Evaluator
from dqlab.training.loop import Loop
from dqlab.training.pack import Pack
from dqlab.training.plan import Training
from dqlab.training.probe import Probe

__all__ = ["Evaluator", "Loop", "Pack", "Probe", "Training"]
