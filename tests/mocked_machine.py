"""A machine with CUDA cards that have no memory: `mocked_card/sitecustomize.py` answers for the driver."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import ROOT, Done, Run

CARD = ROOT / "tests" / "mocked_card"


class Machine:
    """Commands on a machine with cards; `log` has what they did with them."""

    def __init__(self, run: Run, folder: Path, cards: int = 1) -> None:
        self._run, self._log = run, folder / "card.log"
        self.env = {
            "PYTHONPATH": os.pathsep.join([str(CARD), str(ROOT)]),
            "MOCKED_CARDS": str(cards),
            "MOCKED_LOG": str(self._log),
        }

    def __call__(self, *args: str) -> Done:
        return self._run(*args, env=self.env)

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def memory_asked_for(self, command: str) -> bool:
        """Whether a process of that command wanted a tensor on the card."""
        return any(line.startswith("memory asked for") and command in line for line in self.log)
