"""A job that trains nothing: what engines are tried with. `python -m dqlab.tools.conformance.counting_job FOLDER`.

FOLDER/pack.gin has lines `name = value` of these names:

steps     that it counts; after each it writes its checkpoint
seconds   that each takes
die_at    at this step it is killed, `deaths` times in all
fail_at   at this step it fails, and says so
gate      (step, path): before that step it waits for that file
deaf      whether it goes on when its standard input ends
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import FAILED, FINISHED, STOPPED
from dqlab.config.gin_files import parse_bindings
from dqlab.files import write_text
from dqlab.tracking.run_folder import Journal, RunFolder

DEFAULTS = {"steps": 3, "seconds": 0.0, "die_at": 0, "deaths": 1, "fail_at": 0, "gate": (0, ""), "deaf": False}
TOLD = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "D4RL_DATASET_DIR", "DQLAB_GPU_SHARE")
"""Variables of the environment that it tells."""


def main(path: Path) -> int:
    """Count to `steps`; returns the exit code."""
    folder = RunFolder(path)
    while folder.in_use():
        time.sleep(0.05)
    folder.lock()
    plan: dict[str, Any] = {**DEFAULTS, **parse_bindings((path / "pack.gin").read_text())}
    first = json.loads(folder.checkpoint.read_text())["step"] if folder.checkpoint.exists() else 0
    journal = Journal(path / "metrics.jsonl", first)
    print("counting to", plan["steps"], flush=True)
    _tell("started", step=first, pid=os.getpid(), environment={name: os.environ.get(name) for name in TOLD})
    (held, file), heard = plan["gate"], [] if plan["deaf"] else [sys.stdin]
    for step in range(first + 1, plan["steps"] + 1):
        while not select.select(heard, [], [], plan["seconds"])[0]:
            if step != held or Path(file).exists():
                break
        else:  # the standard input has ended
            return STOPPED
        if step == plan["die_at"] and (died := len(list(path.glob("death-*")))) < plan["deaths"]:
            (path / f"death-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == plan["fail_at"]:
            _tell("failed", reason="it was told to")
            return FAILED
        journal.append({"step": step, "time": 0.0, "metrics": {}})
        write_text(folder.checkpoint, json.dumps({"step": step}))
        _tell("saved", step=step)
    write_text(path / "summary.json", json.dumps({"steps": plan["steps"], "first": first}))
    _tell("finished")
    return FINISHED


def _tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
