"""What must stand beside scores: whoever reads results asks here, without the tasks themselves."""

from __future__ import annotations

UNSCORED = "returns, no scores"  # of a task without reference scores: what is called a score there is the return
SUCCESS = "success rate in %"  # of a task that is solved or not


def score_or_return(caveat: str) -> str:
    """What numbers beside which this stands are: a `score`, or a `return`."""
    return "return" if UNSCORED in caveat else "score"
