"""What turns Inductor's code into programs; found without importing PyTorch."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def compiler() -> str:
    """The C++ compiler that Inductor would use on a CPU, or nothing."""
    return _found("CXX", "g++", "clang++")


def missing_for_triton() -> str:
    """What this machine lacks to compile for a GPU; empty where nothing is.

    Triton writes the kernels; a C compiler builds what launches each of them, which includes Python's own header.
    """
    if find_spec("triton") is None:
        return "Triton (pip install triton)"
    if not _found("CC", "gcc", "clang"):
        return "a C compiler (gcc or clang, or $CC)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python.h, for Triton's launchers (apt-get install python3-dev)"
    return ""


def _found(variable: str, *names: str) -> str:
    """The first of these programs that there is, one that an environment variable names before all others."""
    wanted = [os.environ.get(variable, ""), *names]
    return next((found for name in wanted if name and (found := shutil.which(name))), "")
