"""D4RL's tasks, their physics and scores, in today's packages and in D4RL's own stack."""
