"""Steps D4RL's environments for another process: `python -m d4rl_worker`, in the original stack's own Python.

It imports numpy, gym, mujoco-py and D4RL, nothing of dqlab's. docs/legacy.md describes what it reads and writes.
"""
