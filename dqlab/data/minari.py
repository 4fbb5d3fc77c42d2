"""Minari's datasets as a source for training."""

from __future__ import annotations

import contextlib
import errno
import sys
import warnings
from pathlib import Path

from dqlab.data.download import Progress, UnavailableError, no_progress, refuse_if_planning
from dqlab.data.formats.minari import MinariFormat
from dqlab.data.formats.minari_store import check_version, folder_of, is_whole, local_store, minari_package
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, first_line

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@data_sources.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
def minari(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
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
        fetch_minari(argument)
    mend = f"`minari download {argument} --force` replaces it."
    return LocatedDataset(Path(argument), is_d4rl=False, format=MinariFormat(), mend=mend)


def fetch_minari(name: str) -> None:
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
            minari_package().download_dataset(name, force_download=folder.exists())
    except Exception as error:  # of whatever its storages use: HTTP clients, OSError, ValueError, ImportError
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DataError(
                f"Cannot write to {local_store()}: {error}. Set MINARI_DATASETS_PATH to another folder."
            ) from error
        raise UnavailableError(f"Minari cannot fetch '{name}': {first_line(error).rstrip('.')}") from error
    if not is_whole(folder):
        raise UnavailableError(f"Minari fetched '{name}', but not all of it is in {folder}")
