"""The house as docs/architecture.md draws it: rooms above each other, files without circles, each name once.

And components are looked up, never asked for their names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

from dqlab.config.registry import Registry
from dqlab.policies import selections

HEAVY = {"gymnasium", "h5py", "matplotlib", "mlflow", "mujoco", "pandas", "pydantic", "ray", "rich", "rliable", "scipy"}
HEAVY |= {"submitit", "stable_baselines3", "torch", "gin", "ogbench", "dm_control"}
"""Packages that cost much to import, or that need not be there; torch and gin for what reads results only."""
APART = ROOT / "dqlab" / "envs" / "legacy" / "d4rl_worker.py"
"""A program of its own, for the original stack's interpreter."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "dqlab").rglob("*.py")) if path != APART}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
NODES = {module: list(ast.walk(tree)) for module, tree in TREES.items()}
TOP = [(module, node) for module, tree in TREES.items() for node in tree.body]


def floors() -> dict[str, int]:
    """Rooms and loose files, the lowest first, as the page draws them."""
    drawn = re.search(r"```\n(cli .*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert drawn is not None
    rows = [re.split(r"\s{2,}", line)[0].split() for line in drawn[1].splitlines()]
    return {room: height for height, row in enumerate(reversed(rows)) for room in row}


FLOORS = floors()


def room(module: str) -> str:
    return ([*module.split("."), "dqlab"])[1]


@cache
def imports(module: str) -> dict[str, str]:
    """What a file imports of dqlab's, and whether at its `top` or `inside` a function; types only are left out."""
    typing = {
        id(node)
        for block in NODES[module]
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: dict[str, str] = {}
    for node in NODES[module]:
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "dqlab" and id(node) not in typing:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = whole if whole in MODULES else str(node.module)
                if target != module:
                    found[target] = "top" if node in TREES[module].body else found.get(target, "inside")
    return found


IMPORTS = [(module, other, where) for module in MODULES for other, where in imports(module).items()]


@cache
def packages(module: str) -> frozenset[str]:
    """Heavy packages that importing a file brings in."""
    found: set[str] = set()
    todo, seen = [module], {module}
    while todo:
        each = todo.pop()
        for node in TREES[each].body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names} & HEAVY
        new = {other for other, where in imports(each).items() if where == "top"} | handed_out(each)
        todo += new - seen
        seen |= new
    return frozenset(found)


def handed_out(module: str) -> set[str]:
    """Files whose names a room's face hands out when they are asked for: it imports them for types only.

    Not the library's own face, on top of all rooms: they take other things from there.
    """
    if MODULES[module].name != "__init__.py" or module == "dqlab":
        return set()
    blocks = [node for node in TREES[module].body if isinstance(node, ast.If)]
    return {str(node.module) for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)}


def test_imports_go_down_between_rooms_that_are_drawn() -> None:
    assert set(FLOORS) == {room(module) for module in MODULES}
    assert not [each for each in IMPORTS if FLOORS[room(each[1])] > FLOORS[room(each[0])]]


def test_a_file_imports_from_files_of_its_room_not_from_its_face() -> None:
    assert not [module for module in MODULES if room(module) != "cli" and f"dqlab.{room(module)}" in imports(module)]


def test_no_circle_of_files() -> None:
    left = {module: set(imports(module)) for module in MODULES}
    while ready := [module for module, others in left.items() if not others & set(left)]:
        for module in ready:
            del left[module]
    assert not left, f"in circles, or above one: {sorted(left)}"


def test_imports_inside_of_functions_keep_a_heavy_package_away() -> None:
    inside = [(module, other) for module, other, where in IMPORTS if where == "inside" and room(module) != "cli"]
    idle = [(module, other) for module, other in inside if not packages(other) - packages(module)]
    assert not idle, "import these at the top"


def test_what_a_room_hands_out_is_taken_from_its_face() -> None:
    named = [
        (module, node.module, alias.name)
        for module, nodes in NODES.items()
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    faces = {f"dqlab.{each}" for each in ("diffusion", "networks", "policies", "algorithms", "training")}
    owners = {(source, name): room(face) for face, source, name in named if face in faces}
    assert not [each for each in named if owners.get(each[1:], room(each[0])) != room(each[0])]


def test_the_analysis_needs_neither_gin_nor_torch() -> None:
    assert not [each for each in MODULES if room(each) == "analysis" and packages(each) & {"gin", "torch"}]


def test_one_file_touches_gins_variables() -> None:
    private = re.compile(r"gin(_config|\.config)\._|_(REGISTRY|CONFIG|OPERATIVE_CONFIG|SINGLETONS)\b")
    assert [path.name for path in MODULES.values() if private.search(path.read_text())] == ["gin_state.py"]


def test_a_class_has_its_name_to_itself() -> None:
    names = [node.name for _, node in TOP if isinstance(node, ast.ClassDef)]
    assert not {name for name in names if names.count(name) > 1}


ALONE = {"add", "check", "draw", "facts", "find", "forget", "load", "make", "measure", "read", "record", "report"}
ALONE |= {"run", "save", "send", "show", "write"}
PUBLIC = {("dqlab.tools.conformance.suite", "check")}
"""A plugin's tests call it by this name."""


def test_names_say_what_they_mean_where_they_are_read() -> None:
    """No verbs that say nothing alone, and no definite articles."""
    functions = {(module, node.name) for module, node in TOP if isinstance(node, ast.FunctionDef)}
    assert not {each for each in functions - PUBLIC if each[1] in ALONE or each[1].startswith("the_")}


@pytest.mark.parametrize("page", ["architecture", "contracts", "internals", "performance"])
def test_files_that_the_pages_name_are_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    named = set(re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_.]+\.[a-z]+)`", text))
    places = (ROOT, ROOT / "dqlab", ROOT / "docs")
    assert not {name for name in named if not any((place / name).exists() for place in places)}


def compared(node: ast.AST) -> Iterator[str]:
    """Strings that are compared with something, or that a `match` looks for."""
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    sides += [node.value] if isinstance(node, ast.MatchValue) else []
    for leaf in (leaf for side in sides for leaf in ast.walk(side)):
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
            yield leaf.value


def test_no_name_of_a_component_is_compared_with_a_string() -> None:
    selections.names()  # fills the registries
    known = {name for registry in Registry.kinds.values() for name in registry.names()}
    nodes = [(module, node) for module, found in NODES.items() for node in found]
    nodes += [("apart", node) for node in ast.walk(ast.parse(APART.read_text()))]
    found = [(module, text) for module, node in nodes for text in compared(node)]
    assert len(found) > 100, "comparisons are seen"
    assert not [each for each in found if each[1] in known]


def test_gin_names_are_of_one_part_each() -> None:
    """`exponential.beta = 1` must not be ambiguous between two kinds."""
    made = [(entry.item.__name__, kind) for kind, r in Registry.kinds.items() for entry in r if callable(entry.item)]
    names = [name for name, _ in made]
    assert not {(name, kind) for name, kind in made if names.count(name) > 1}
