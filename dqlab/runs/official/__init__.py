"""Files of the official Diffusion-QL code: checkpoints, and recordings of its updates."""
