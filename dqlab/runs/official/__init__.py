"""Files of the official Diffusion-QL code: checkpoints, and recordings of its updates."""

from __future__ import annotations

from dqlab.runs.official.checkpoints import OfficialCheckpoint, load_checkpoint
from dqlab.runs.official.files import actor_weights, critic_weights
from dqlab.runs.official.recordings import RecordingReplay, replay_recording

__all__ = [
    "OfficialCheckpoint",
    "RecordingReplay",
    "actor_weights",
    "critic_weights",
    "load_checkpoint",
    "replay_recording",
]
