"""Environments with the dynamics and the scores of D4RL."""
