"""The signal that one data source has nothing, so that the next one is asked."""

from dqlab.errors import DataError


class UnavailableError(DataError):
    """This source does not have the dataset; the message says why."""
