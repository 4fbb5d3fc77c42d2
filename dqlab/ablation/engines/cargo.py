"""What must travel with packs to nodes that share no file system: code, datasets, settings of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import dqlab
from dqlab.ablation.engines.base import Job
from dqlab.ablation.engines.node import Input
from dqlab.errors import ConfigError
from dqlab.files import sha256_of

IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)|\.env_id\s*=\s*'(\w+)[\w.]*:", re.MULTILINE)
"""Modules that a pack's configuration imports, or that register its environment."""
CARRIED = "DQLAB_"


def variables() -> dict[str, str]:
    """The driver's environment variables that packs see everywhere."""
    return {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}


def modules_of(jobs: Iterable[Job]) -> list[str]:
    """dqlab's folder, and the packages or single files of the plugins that the packs import."""
    named = {name for job in jobs for pair in IMPORT.findall((job.folder / "pack.gin").read_text()) for name in pair}
    found = (_source_of(name) for name in sorted(named - {dqlab.__name__, ""}))
    return [str(Path(dqlab.__file__).parent), *(str(path) for path in found if path is not None)]


def _source_of(name: str) -> Path | None:
    """A top-level package's folder, or a module's file; None where there is neither (the worker will say so)."""
    spec = find_spec(name)
    if spec is None:
        return None
    folder = next(iter(spec.submodule_search_locations or ()), None)
    if folder is not None:
        return Path(folder)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def check_files(jobs: Iterable[Job]) -> None:
    """See that every dataset is a file, as travels to nodes.

    Raises:
        ConfigError: one is a folder.
    """
    for path in (path for job in jobs for path in job.inputs.values() if path.is_dir()):
        raise ConfigError(
            f"The dataset in {path} is a folder, which Ray's nodes are not sent. Write it as a file (`dqlab data "
            "convert FROM FILE.hdf5`) and set load_dataset.sources=('file:FILE.hdf5',), or choose another Grid.engine."
        )


class Inputs:
    """Puts every dataset where nodes can fetch it, once, however many packs read it."""

    def __init__(self, put: Callable[[Any], Any]) -> None:
        self._put = put
        self._known: dict[Path, Input] = {}
        self._references: dict[str, Any] = {}

    def of(self, job: Job) -> list[Input]:
        """The datasets of a job."""
        return [self._input(path.resolve(), path.name) for path in dict.fromkeys(job.inputs.values())]

    def _input(self, path: Path, name: str) -> Input:
        if path not in self._known:
            digest = sha256_of(path)
            if digest not in self._references:
                self._references[digest] = self._put(np.fromfile(path, np.uint8))
            self._known[path] = Input(name, digest, [self._references[digest]])
        return self._known[path]


def reads_cache(job: Job) -> bool:
    """Whether a job finds its datasets in D4RL's cache, under D4RL's names."""
    if not job.inputs:
        return True
    from dqlab.configuration import flat
    from dqlab.data.sources import cache_path, d4rl_cache, data_sources
    from dqlab.envs.tasks import tasks

    bound = flat((job.folder / "pack.gin").read_text())
    sources = [value for name, value in bound.items() if name.endswith("load_dataset.sources")]
    cache = next(entry.name for entry in data_sources if entry.item is d4rl_cache)
    asked = not sources or cache in np.atleast_1d(np.array(sources[0], dtype=object))
    return bool(asked) and all(path.name == cache_path(tasks.get(task)).name for task, path in job.inputs.items())
