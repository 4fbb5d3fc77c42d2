"""The runs behind a figure: those that are there are taken, the others are trained or continued."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from dqlab import configuration
from dqlab.errors import RunError
from dqlab.experiment import Experiment
from dqlab.files import read_text
from dqlab.run_folder import RunFolder
from dqlab.running import UNSTORED, WITHOUT_EFFECT, train
from dqlab.tracking.settings import Tracking


def finish(gin: str, path: Path, bindings: Sequence[str] = ()) -> str:
    """Train what a gin file describes, unless the folder already holds that run; returns a line on what was done.

    Args:
        gin: the file.
        path: the run's folder.
        bindings: `Configurable.parameter=value` strings, overriding the file.

    Raises:
        RunError: the folder holds a run of another configuration.
    """
    loaded = configuration.load([gin], bindings)
    folder = RunFolder(path)
    if folder.finished:
        _check_same(folder, loaded)
        return f"finished before, {_steps(folder):,} updates"
    started = time.monotonic()
    train(loaded, path, resume=True, quiet=True)
    return f"{_steps(folder):,} updates, {time.monotonic() - started:.0f} s"


def forget(path: Path) -> None:
    """Delete a run; a folder that holds something else is left alone.

    Raises:
        RunError: a process trains in it.
    """
    folder = RunFolder(path)
    if not (path / "run.json").exists():
        return
    if folder.in_use():
        raise RunError(f"{path} is in use by another run. Wait for it, or choose another --out.")
    shutil.rmtree(path)


def _check_same(folder: RunFolder, loaded: configuration.Loaded) -> None:
    """A finished run stands for a gin file only if it was trained as that file says now."""
    experiment = Experiment()
    experiment.check()
    experiment.data()
    Tracking()
    now = configuration.operative_text(loaded)
    if found := configuration.differences(read_text(folder.config), now, WITHOUT_EFFECT, UNSTORED):
        raise RunError(
            f"{folder.path} holds a finished run of another configuration: {'; '.join(found)}. "
            "Use --fresh to train it again, or choose another --out."
        )


def _steps(folder: RunFolder) -> int:
    """Updates of a finished run."""
    return folder.chosen_step(folder.replicas()[0], "last")
