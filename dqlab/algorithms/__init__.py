"""Algorithms: what is trained, by which losses, towards which targets, and how it acts."""

from dqlab.algorithms.actor_critic import ActorCritic
from dqlab.algorithms.base import Algorithm, algorithms

__all__ = ["ActorCritic", "Algorithm", "algorithms"]
