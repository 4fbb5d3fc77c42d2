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
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from gpu.notes import HaltError, Notes, OutOfTime, read, shown, write_markdown
from gpu.settings import Settings

SECTIONS: dict[str, tuple[str, str, float]] = {
    "machine": ("gpu.machine", "run", 20.0),
    "door": ("gpu.door", "run", 90.0),
    "correctness": ("gpu.checks", "run", 90.0),
    "waits": ("gpu.checks", "run_waits", 20.0),
    "figures": ("gpu.figures", "run", 140.0),
    "details": ("gpu.figures", "run_details", 25.0),
    "peers": ("gpu.figures", "run_peers", 40.0),
    "training": ("gpu.training", "run", 0.0),
}
"""Module, function, and the seconds that a section may take where all are run; 0: until the end."""
ON_DEMAND = {"variants": ("gpu.figures", "run_variants", 0.0)}
"""Sections that only `--only` asks for."""
GRACE = 5.0
"""Seconds after its deadline until a section that does not listen is killed."""
REST = 150.0
"""The budget of a section that has none, where time is shared out."""
HALT = 3
"""Exit code of a section after which no other is begun."""


def main() -> int:
    settings = Settings(sys.argv[1:])
    if unknown := set(settings.only or ()) - set(SECTIONS | ON_DEMAND):
        sys.exit(f"--only: there is no section {', '.join(sorted(unknown))}. Known: {', '.join(SECTIONS | ON_DEMAND)}.")
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
    code = 0
    try:
        run(settings, notes)
    except OutOfTime:
        notes.add("stopped", "its time was over")
    except HaltError:
        notes.add("stopped", "what failed here is what all else stands on")
        code = HALT
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_markdown(settings.out / "results.json")
    os._exit(code)  # at once: a compiler's helpers may take their time to end


def _out_of_time(*_: Any) -> None:
    raise OutOfTime


def _all(settings: Settings) -> int:
    """Every section in its turn; what there is is printed at the end, whatever went wrong."""
    import torch

    if settings.on_gpu and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here. Without one: --device cpu --smoke.")
    end, results = time.time() + settings.until, settings.out / "results.json"
    if settings.only is None:
        results.unlink(missing_ok=True)
    code, sections = 0, list(settings.only or SECTIONS)
    for number, section in enumerate(sections):
        seconds = share(sections[number:], end - time.time(), whole=bool(settings.only))
        if code == HALT or seconds < GRACE:
            Notes(results, section).add("not begun", "an earlier one failed" if code == HALT else "no time was left")
            continue
        code = _in_a_process(settings, section, time.time() + seconds)
        write_markdown(results)
    for section, found in read(results).items():
        print(f"\n{section}")
        for name, value in found.items():
            print(f"  {name:44s} {shown(value)}")
    return HALT if code == HALT else 0


def share(sections: Sequence[str], left: float, whole: bool) -> float:
    """Seconds that the first of these sections may take.

    Args:
        sections: those to come.
        left: until the end.
        whole: whether what is left is shared out by the sections' budgets; else they are as they are.
    """
    budgets = [(SECTIONS | ON_DEMAND)[section][2] or REST for section in sections]
    if whole:
        return left * budgets[0] / sum(budgets)
    return min(left, (SECTIONS | ON_DEMAND)[sections[0]][2] or left)


def _in_a_process(settings: Settings, section: str, deadline: float) -> int:
    """Run a section; its exit code."""
    command = [sys.executable, "-m", "gpu", *sys.argv[1:], "--section", section, "--deadline", f"{deadline}"]
    notes, started = Notes(settings.out / "results.json", section), time.time()
    try:
        code = subprocess.run(command, timeout=deadline + GRACE - started).returncode
        outcome = "" if code == 0 else f"ended with status {code}"
    except subprocess.TimeoutExpired:
        code, outcome = -1, "killed: it did not stop in time"
    notes.add("section took", f"{time.time() - started:.0f} s" + (f"; {outcome}" if outcome else ""))
    return code


if __name__ == "__main__":
    sys.exit(main())
