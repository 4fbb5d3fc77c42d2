"""Making datasets as D4RL did: `dqlab collect`."""
