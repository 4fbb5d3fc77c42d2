"""The diffusion core: noise schedules, the forward process and its posterior, samplers."""
