"""dqlab: reproduce, ablate and extend Diffusion-QL."""

__version__ = "0.1.0"
