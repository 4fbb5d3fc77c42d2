"""The house's floors, as docs/architecture.md draws them: a module imports from its own floor or from those below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = [
    {"__main__", "cli"},
    {"description", "testing"},
    {"ablation", "comparison"},
    {"report", "catalogue", "scaffold", "running", "watch", "finishing", "benchmarking", "profiling", "figures"}
    | {"doctor", "fidelity", "scoring", "filming", "sending", "collection", "datasets"},
    {"experiment"},
    {"plugins", "rollback", "scalars", "configuration"},
    {"evaluation", "official", "tracking", "parts"},
    {"training"},
    {"algorithms", "data"},
    {"policies", "selection"},
    {"diffusion", "networks", "envs"},
    {"children", "noise", "replica", "run_folder", "records", "printing", "console", "files", "machine", "signals"}
    | {"swap", "fields", "registry", "entries", "gin_registry", "gin_references", "gin_statements", "errors"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "dqlab").rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> set[str]:
    """Rooms of dqlab that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dqlab":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down(path: Path) -> None:
    room = path.with_suffix("").parts[1]
    above = [other for other in imported(path) if LEVEL[other] < LEVEL[room]]
    assert not above, f"{path} imports {above} from a floor above its own"


def test_tracking_knows_nobody_but_the_lowest_floor() -> None:
    for path in MODULES:
        if path.parts[1] == "tracking":
            assert imported(path) <= FLOORS[-1] | {"tracking"}, path
