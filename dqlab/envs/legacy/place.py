"""Where the original stack is installed: what `make legacy` built, or what $DQLAB_LEGACY names."""

from __future__ import annotations

import os
from pathlib import Path

from dqlab.errors import ConfigError
from dqlab.files import expanded

VARIABLE = "DQLAB_LEGACY"
FOLDER = ".venv-legacy"
STAMP = ".ready"
"""Written when the environment is complete; `scripts/legacy.sh` knows the same name."""

HOW = "`make legacy` in a checkout of dqlab builds it (about 2 minutes)"


def legacy_python() -> Path:
    """The Python of the environment that holds gym 0.23.1, mujoco-py and D4RL.

    Raises:
        ConfigError: there is none, or it is not complete; the message says what to do.
    """
    named = os.environ.get(VARIABLE)
    folder = expanded(named).absolute() if named else Path(__file__).parents[3] / FOLDER
    python = folder / "bin" / "python"
    if named and not python.exists():
        raise ConfigError(f"${VARIABLE} names {folder}, where there is no bin/python: {HOW}.")
    if not python.exists():
        raise ConfigError(
            f"D4RL's original stack is not installed: {HOW}; ${VARIABLE} names one that was built elsewhere."
        )
    if not named and not (folder / STAMP).exists():
        raise ConfigError(f"D4RL's original stack in {folder} is not complete: `make legacy` goes on with it.")
    return python


def mujoco_tree(python: Path) -> Path:
    """MuJoCo 2.1.0's folder: $MUJOCO_PY_MUJOCO_PATH, or `mujoco210` in the environment of that Python."""
    return Path(os.environ.get("MUJOCO_PY_MUJOCO_PATH") or python.parent.parent / "mujoco210").absolute()
