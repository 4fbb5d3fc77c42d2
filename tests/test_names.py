"""Components are looked up, never asked for their names."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conftest import ROOT

from dqlab.config.registry import Registry
from dqlab.policies import selections

selections.names()  # fills the registries
KNOWN = {name for registry in Registry.kinds.values() for name in registry.names()}


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings that are compared with something, or that a `match` looks for, and their lines."""
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides += [node.value] if isinstance(node, ast.MatchValue) else []
        for side in sides:
            for leaf in ast.walk(side):
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                    yield leaf.lineno, leaf.value


def test_no_name_of_a_component_is_compared_with_a_string() -> None:
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in (ROOT / "dqlab").rglob("*.py")}
    assert not [(path, *found) for path, tree in trees.items() for found in compared(tree) if found[1] in KNOWN]


def test_the_test_sees_comparisons() -> None:
    code = "if name == 'vp': pass\nif kind in ('mlp', x): pass\nmatch a:\n    case 'twin': pass"
    assert [text for _, text in compared(ast.parse(code))] == ["vp", "mlp", "twin"]


def test_gin_names_are_of_one_part_each() -> None:
    """`exponential.beta = 1` must not be ambiguous between two kinds."""
    made = [(entry.item.__name__, kind) for kind, r in Registry.kinds.items() for entry in r if callable(entry.item)]
    names = [name for name, _ in made]
    assert not {(name, kind) for name, kind in made if names.count(name) > 1}
