"""Runs the sections one after the other, each in a process of its own: none can spoil the next one.

benchmarks/gpu.sh                            # on a machine with an NVIDIA GPU: under eight minutes
benchmarks/gpu.sh --device cpu --smoke       # does it run at all?
benchmarks/gpu.sh --only variants            # settings of PyTorch's compiler, side by side: some minutes
benchmarks/gpu.sh --evaluate DIR             # play episodes with the weights of an earlier run
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from gpu.notes import Notes, OutOfTime, read, shown, write_markdown
from gpu.settings import Settings

SECTIONS: dict[str, tuple[str, str, float]] = {
    "machine": ("gpu.machine", "run", 25.0),
    "correctness": ("gpu.checks", "run", 110.0),
    "waits": ("gpu.checks", "run_waits", 25.0),
    "figures": ("gpu.figures", "run", 150.0),
    "details": ("gpu.figures", "run_details", 30.0),
    "training": ("gpu.training", "run", 0.0),
}
"""Module, function, and the seconds that a section may take, however far it is; 0: until the end."""
ON_DEMAND = {"variants": ("gpu.figures", "run_variants", 0.0)}
"""Sections that only `--only` asks for."""
GRACE = 5.0
"""Seconds after its deadline until a section that does not listen is killed."""


def main() -> int:
    settings = Settings(sys.argv[1:])
    settings.out.mkdir(parents=True, exist_ok=True)
    if settings.evaluate:
        _alone(settings, "evaluation", _function("gpu.training", "evaluate_kept"))
    if settings.section:
        module, function, _ = (SECTIONS | ON_DEMAND)[settings.section]
        _alone(settings, settings.section, _function(module, function))
    return _all(settings)


def _function(module: str, name: str) -> Callable[[Settings, Notes], None]:
    function: Callable[[Settings, Notes], None] = getattr(import_module(module), name)
    return function


def _alone(settings: Settings, section: str, run: Callable[[Settings, Notes], None]) -> NoReturn:
    """One section, here, until its deadline."""
    import torch

    torch.set_num_threads(1)
    notes = Notes(settings.out / "results.json", section)
    if settings.deadline:
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, max(settings.left(), 0.1))
    try:
        run(settings, notes)
    except OutOfTime:
        notes.add("stopped", "its time was over")
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_markdown(settings.out / "results.json")
    os._exit(0)  # at once: a compiler's helpers may take their time to end


def _out_of_time(*_: Any) -> None:
    raise OutOfTime


def _all(settings: Settings) -> int:
    """Every section in its turn; what there is is printed at the end, whatever went wrong."""
    import torch

    if settings.on_gpu and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here. Without one: --device cpu --smoke.")
    end, results = time.time() + settings.until, settings.out / "results.json"
    results.unlink(missing_ok=True)
    wanted = SECTIONS if settings.only is None else SECTIONS | ON_DEMAND
    for section, (_, _, budget) in wanted.items():
        if settings.only is not None and section not in settings.only:
            continue
        deadline = min(end, time.time() + budget) if budget else end
        if deadline - time.time() > GRACE:
            _in_a_process(settings, section, deadline)
            write_markdown(results)
    for section, found in read(results).items():
        print(f"\n{section}")
        for name, value in found.items():
            print(f"  {name:44s} {shown(value)}")
    return 0


def _in_a_process(settings: Settings, section: str, deadline: float) -> None:
    command = [sys.executable, "-m", "gpu", *sys.argv[1:], "--section", section, "--deadline", f"{deadline}"]
    notes, started = Notes(settings.out / "results.json", section), time.time()
    try:
        code = subprocess.run(command, timeout=deadline + GRACE - started).returncode
        outcome = "" if code == 0 else f"ended with status {code}"
    except subprocess.TimeoutExpired:
        outcome = "killed: it did not stop in time"
    notes.add("section took", f"{time.time() - started:.0f} s" + (f"; {outcome}" if outcome else ""))


if __name__ == "__main__":
    sys.exit(main())
