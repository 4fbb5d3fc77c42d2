"""Collections on a budget of seconds, in this process: Pendulum-v1, PPO of two updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from dqlab.config import gin_files
from dqlab.tools.collect.recipe import Collection

TINY = [
    "Collection.task=''",
    "Collection.env_id='Pendulum-v1'",
    "Collection.episode_limit=50",
    "Collection.reference_scores=(-400.0, 0.0)",
    "Collection.medium_scores=(-1000.0, 1000.0)",
    "Collection.expert_scores=(-1000.0, 1000.0)",
    "Collection.ranking_episodes=2",
    "BehaviourTraining.steps=256",
    "BehaviourTraining.checkpoint_every=128",
    "BehaviourTraining.n_envs=2",
    "BehaviourTraining.n_steps=64",
    "BehaviourTraining.epochs=2",
    "BehaviourTraining.discount=0.9",
    "BehaviourTraining.learning_rate=1e-3",
]


def collect(folder: Path, *bindings: str, files: tuple[str, ...] = ()) -> Path:
    """Collect into a folder, silently; the first set that was written."""
    gin_files.load_gin(files, [*TINY, *bindings])
    return Path(Collection().run(folder, log=lambda text: None)[0])


def arrays(path: Path) -> dict[str, Any]:
    """Everything in a file but its metadata."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None)
    return {name: value for name, value in found.items() if not name.startswith("metadata/")}


def notes(path: Path) -> dict[str, str]:
    """A file's metadata."""
    with h5py.File(path) as file:
        return {name: file[f"metadata/{name}"][()].decode() for name in file["metadata"]}
