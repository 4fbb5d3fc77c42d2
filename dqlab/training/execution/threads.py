"""How many CPU threads an update is worth."""

from __future__ import annotations

import os

from dqlab.machine import cores

ROWS_A_THREAD = 1024
"""Measured (docs/performance.md): with batches of 256 two threads are slower than one, from 1024 rows on they pay."""
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Idle threads of OpenMP sleep: spinning ones take the cores from other runs."""


def quiet_threads() -> None:
    """Let idle threads sleep, unless the environment says otherwise; it is read when PyTorch is imported."""
    for name, value in QUIET_THREADS.items():
        os.environ.setdefault(name, value)


def threads_for(rows: int) -> int:
    """Threads for matrix products of that many rows: one for each 1024, one at least, no more than there are cores.

    By size, not by a trial: the number of threads changes results in their last bits, and a run must repeat.
    """
    return max(1, min(cores(), rows // ROWS_A_THREAD))
