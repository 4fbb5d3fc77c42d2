"""What turns Inductor's C++ into programs; found without importing PyTorch."""

from __future__ import annotations

import os
import shutil


def compiler() -> str:
    """The C++ compiler that Inductor would use on a CPU, or nothing."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), "")
