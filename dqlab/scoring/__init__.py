"""D4RL-normalised scores of raw returns."""
