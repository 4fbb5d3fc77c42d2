"""Records that cannot be read: each is named in one line, and left out where others can still be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dqlab.errors import DqlabError, RunError

SHOWN = 3


class LeftOutError(RunError):
    """Some records could not be used; all others were."""


class Leaving:
    """Goes on after records that cannot be used.

    Attributes:
        out: why each of them was left out, one sentence or two.
    """

    def __init__(self) -> None:
        self.out: list[str] = []

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Leave the rest of the block out where a record cannot be used."""
        try:
            yield
        except DqlabError as error:
            self.out.append(str(error))

    def tell(self) -> None:
        """Say it once all else is done.

        Raises:
            LeftOutError: something was left out.
        """
        if self.out:
            more = len(self.out) - SHOWN
            raise LeftOutError(" ".join(self.out[:SHOWN]) + (f" And {more} more." if more > 0 else ""))
