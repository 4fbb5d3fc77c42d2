"""The diffusion process and its samplers: pure functions of injected noise."""
