"""Runs of seconds, by the library."""

from __future__ import annotations

import ast
from typing import Any

from conftest import TINY

SECONDS: dict[str, Any] = {
    name: ast.literal_eval(value) for name, value in (binding.split("=", 1) for binding in TINY) if name
}
"""`set` of a training run of seconds."""
