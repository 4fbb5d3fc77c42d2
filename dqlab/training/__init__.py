"""The pack, its update, the loop around it, checkpoints and evaluation."""
