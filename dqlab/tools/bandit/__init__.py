"""The paper's figure of the 2D bandit: `dqlab figure bandit`."""
