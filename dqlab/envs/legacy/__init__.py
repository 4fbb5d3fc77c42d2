"""D4RL's own stack, in an environment of its own: where it is, the process in it, and the backend that steps it."""
