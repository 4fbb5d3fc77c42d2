"""A SLURM cluster, through submitit: every pack is a job of its own, and all nodes see the packs' folders."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import DIED, Ended, Job, Tell, engines
from dqlab.ablation.engines.local import Stops, ended
from dqlab.ablation.engines.process import Event, Outcome, attempt, environment
from dqlab.errors import ConfigError
from dqlab.fields import check_fields, require

EVENTS, STOP = "events.jsonl", "stop"
POLL = 0.5


@dataclass
class Pack:
    """What a SLURM job calls: one pack, with up to `retries` further attempts. Preempted, it saves and is requeued."""

    job: Job
    retries: int
    preempted: bool = False

    def __call__(self) -> Outcome:
        """Run the pack's process; what it tells is written beside its other files."""
        variables = environment(self.job.threads, None if self.job.gpu_memory else "")
        command = self.job.command(self.job.folder)
        for _ in range(self.retries + 1):
            outcome = attempt(command, self.job.log, variables, self._hear, self._asked)
            if self._asked() or not outcome.mendable:
                break
        return outcome
