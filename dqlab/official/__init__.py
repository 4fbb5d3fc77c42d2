"""The official Diffusion-QL code's files: its checkpoints, and recordings of its updates."""

from dqlab.official.checkpoints import Checkpoint, load_checkpoint
from dqlab.official.names import actor_weights, critic_weights
from dqlab.official.recordings import Replay, replay

__all__ = ["Checkpoint", "Replay", "actor_weights", "critic_weights", "load_checkpoint", "replay"]
