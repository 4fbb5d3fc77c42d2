"""A machine with CUDA cards that have no memory: `mocked_card/sitecustomize.py` answers for the driver."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import ROOT, Done, Run


class Machine:
    """Commands on a machine with cards; `log` has what they did with them."""

    def __init__(self, run: Run, folder: Path, cards: int = 1) -> None:
        self._run, self.log = run, folder / "card.log"
        path = os.pathsep.join([str(ROOT / "tests" / "mocked_card"), str(ROOT)])
        self.env = {"PYTHONPATH": path, "MOCKED_CARDS": str(cards), "MOCKED_LOG": str(self.log)}

    def __call__(self, *args: str) -> Done:
        return self._run(*args, env=self.env)
