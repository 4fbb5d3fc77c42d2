"""Making D4RL-style datasets: train behaviour policies, pick a medium and an expert, roll them out."""
