"""Importing this module fills every registry with dqlab's own components. It needs torch, numpy and gin only."""

from __future__ import annotations

import re
from importlib import import_module

from dqlab.errors import PACKAGE

REGISTERS = re.compile(rb"\n(@\w+\.register|\w+\.add)\(")
"""How a file says that it has components: so a new one is found by being there."""

for _path in sorted(PACKAGE.rglob("*.py")):
    if REGISTERS.search(_path.read_bytes()):
        import_module(".".join(("dqlab", *_path.relative_to(PACKAGE).with_suffix("").parts)))
