"""`dqlab fidelity`: both stacks are stepped side by side, and the page on it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dqlab.envs.legacy.place import legacy_python
from dqlab.envs.legacy.process import Worker
from dqlab.errors import ConfigError, nearest_of_few
from dqlab.fidelity.page import page
from dqlab.fidelity.rows import Say, environments, measure
from dqlab.fidelity.runs import compared
from dqlab.files import write_text
from dqlab.machine import version_of
from dqlab.run_folder import RunFolder

PACKAGES = ("gymnasium", "mujoco", "gymnasium-robotics", "numpy")


def make(out: Path, chosen: Sequence[str], runs: Sequence[Path], copies: int, say: Say) -> None:
    """Measure, and write the page.

    Args:
        out: the Markdown file.
        chosen: D4RL's environments; all that today's packages have, if empty.
        runs: folders of dqlab runs whose policies are evaluated in both stacks too.
        copies: roll-outs and episodes of each figure.
        say: is told what is measured.

    Raises:
        ConfigError: the original stack is not installed, or there is no such environment.
    """
    legacy_python()
    if copies < 1:
        raise ConfigError(f"--episodes must be at least 1, not {copies}.")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name a file.")
    for run in runs:
        RunFolder(run).facts()
    known = environments()
    for name in chosen:
        if name not in known:
            raise ConfigError(f"There is no environment '{name}'. {nearest_of_few(name, known)}")
    rows = [row for name in chosen or known for row in measure(known[name], copies, say)]
    told = [compared(run, copies, say) for run in runs]
    words = ["dqlab fidelity", *(["--robot", *chosen] if chosen else []), f"--episodes {copies}"]
    words += [f"--run {run}" for run in runs]
    write_text(out, page(rows, told, copies, _versions(), " ".join([*words, f"--out {out}"])))


def _versions() -> str:
    worker = Worker(legacy_python())
    original = ", ".join(f"{name} {number}" for name, number in worker.versions.items())
    worker.close()
    return f"original: {original}; today: {', '.join(f'{name} {version_of(name)}' for name in PACKAGES)}"
