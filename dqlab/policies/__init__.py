"""Policies: how an action is made from a state and noise, and which of several candidates is taken."""

from dqlab.policies.base import Policy, policies
from dqlab.policies.selection import selections

__all__ = ["Policy", "policies", "selections"]
