"""Minari's datasets as a source for training."""

from __future__ import annotations

import contextlib
import errno
import sys
import warnings
from pathlib import Path

from dqlab.data.download import Progress, refuse_if_planning, silent
from dqlab.data.formats.minari import MinariFormat
from dqlab.data.found import Found
from dqlab.data.minari_store import check_version, folder_of, is_whole, library, store
from dqlab.data.sources import data_sources
from dqlab.data.unavailable import UnavailableError
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, first_line

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@data_sources.register("minari", source="Minari (Younis et al. 2024)")
def minari(task: Task, argument: str = "", progress: Progress = silent) -> Found:
    """A dataset of Minari's, as `minari:ID`: from the local store, else fetched into it by Minari's own download.

    Steps at which episodes were truncated are kept, with the observations that followed them.

    Args:
        task: whose states and actions the dataset has.
        argument: the dataset's id, such as `mujoco/walker2d/medium-v0`.
        progress: not used; Minari shows its own.
    """
    if not argument:
        raise ConfigError("The source minari wants a dataset's id: 'minari:mujoco/walker2d/medium-v0', for example.")
    folder = folder_of(argument)
    if not is_whole(folder):
        check_version(argument)  # what another version wrote is not to be overwritten
        fetch(argument)
    mend = f"`minari download {argument} --force` replaces it."
    return Found(Path(argument), is_d4rl=False, format=MinariFormat(), mend=mend)


def fetch(name: str) -> None:
    """Let Minari download a dataset into its store, or the rest of it where that broke off.

    Raises:
        UnavailableError: Minari's server cannot be reached, or does not have it.
        DataError: there is no room for it.
    """
    refuse_if_planning(f"minari:{name}")
    folder = folder_of(name)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library().download_dataset(name, force_download=folder.exists())
    except Exception as error:  # of whatever its storages use: HTTP clients, OSError, ValueError, ImportError
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DataError(
                f"Cannot write to {store()}: {error}. Set MINARI_DATASETS_PATH to another folder."
            ) from error
        raise UnavailableError(f"Minari cannot fetch '{name}': {first_line(error).rstrip('.')}") from error
    if not is_whole(folder):
        raise UnavailableError(f"Minari fetched '{name}', but not all of it is in {folder}")
