"""Which nodes of a traced program change which memory."""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import Node


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def written(node: Node) -> list[Node]:
    """The arguments that a node changes."""
    schema = _schema(node)
    found: list[Any] = []
    for place, argument in enumerate(schema.arguments if schema and schema.is_mutable else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            found += value if isinstance(value, (list, tuple)) else [value]
    return [value for value in found if isinstance(value, Node)]


def owner(node: Node) -> Node | None:
    """The node in whose memory this one's values lie; nobody in particular for arguments, which may share theirs."""
    while _borrows(node):
        node = node.args[0]  # type: ignore[assignment]
    return None if node.op in ("placeholder", "get_attr") else node


def _borrows(node: Node) -> bool:
    schema = _schema(node)
    aliases = bool(schema) and any(result.alias_info is not None for result in schema.returns)
    return (aliases or node.target is operator.getitem) and isinstance(node.args[0], Node)
