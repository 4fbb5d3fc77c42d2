"""D4RL's tasks, their physics and scores, in today's packages and in D4RL's own stack."""

from dqlab.envs.backend import env_backends, make_env
from dqlab.envs.tasks import tasks

__all__ = ["env_backends", "make_env", "tasks"]
