"""Training: the loop, the update, its noise, checkpoints and model selection."""
