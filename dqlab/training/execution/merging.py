"""Merging of summed products: what a traced program adds up, it computes at once.

A layer that is called several times (a denoiser, N times a chain) gets a gradient from every call: as many products for
its weight, as many sums over rows for its bias, added up. But A1 B1 + A2 B2 = [A1 A2] [B1; B2]: one product, and one
sum, over more rows. On a GPU each of them would be a launch or two.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from dqlab.training.execution.torch_internals import operator_schema


def merge_sums(graph: Graph) -> int:
    """Merge the summed products in a graph as `make_fx` traces it, whose nodes know their values' shapes, in place.

    Returns how many products and sums it has fewer.
    """
    _drop_idle_views(graph)
    merger = _Merger(graph)
    saved = sum(merger.merge(root) for root in list(graph.nodes) if _is_root(root))
    graph.eliminate_dead_code()
    return saved


def written_arguments(node: Node) -> list[Node]:
    """The arguments that a node changes."""
    schema = operator_schema(node)
    found: list[Any] = []
    for place, argument in enumerate(schema.arguments if schema and schema.is_mutable else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            found += value if isinstance(value, (list, tuple)) else [value]
    return [value for value in found if isinstance(value, Node)]


def memory_owner(node: Node) -> Node | None:
    """The node in whose memory this one's values lie; nobody in particular for arguments, which may share theirs."""
    while _borrows(node):
        node = node.args[0]  # type: ignore[assignment]
    return None if node.op in ("placeholder", "get_attr") else node


def _borrows(node: Node) -> bool:
    schema = operator_schema(node)
    aliases = bool(schema) and any(result.alias_info is not None for result in schema.returns)
    return (aliases or node.target is operator.getitem) and isinstance(node.args[0], Node)


aten = torch.ops.aten
PRODUCTS: dict[Any, tuple[int, int]] = {aten.mm.default: (-1, 0), aten.bmm.default: (-1, 1)}
"""Products of matrices, and the dimension of the first and of the second operand along which they sum."""
SUM = aten.sum.dim_IntList


REORDERINGS = (aten.t.default, aten.transpose.int, aten.permute.default)
"""What puts dimensions into another order."""
SHAPING = (*REORDERINGS, aten.view.default, aten.reshape.default)
"""What a summand may pass through on its way to the sum."""


@dataclass(frozen=True)
class Term:
    """A summand.

    Attributes:
        core: the product or the sum over one dimension that it is made of; another summand itself.
        path: the shaping that follows, the last one being the summand.
        kind: terms that are equal in this can be merged; empty where none can.
    """

    core: Node
    path: tuple[Node, ...] = ()
    kind: tuple[Any, ...] = ()

    @property
    def result(self) -> Node:
        """The node that gives the summand's value."""
        return self.path[-1] if self.path else self.core


class _Merger:
    """Merges the terms of one sum after the other; equal operands are put side by side once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        self._writes = [
            (place, memory_owner(node)) for user, place in self._places.items() for node in written_arguments(user)
        ]
        self._stacks: dict[tuple[tuple[Node, ...], int], Node] = {}
        self._now = 0

    def merge(self, root: Node) -> int:
        """Merge what can be merged in that sum; returns how many terms it has fewer."""
        self._now = self._places[root]
        terms = [_term(summand) for summand in _summands(root)]
        groups: dict[tuple[Any, ...], list[Term]] = {}
        for position, term in enumerate(terms):
            free = bool(term.kind) and not self._overwritten(term.core.args, self._places[term.core])
            groups.setdefault(term.kind if free else (position,), []).append(term)
        if len(groups) < len(terms):
            with self._graph.inserting_before(root):
                merged = [self._merged(group) for group in groups.values()]
                root.replace_all_uses_with(reduce(lambda one, other: self._call(aten.add.Tensor, one, other), merged))
        return len(terms) - len(groups)

    def _call(self, target: Any, *args: Any) -> Node:
        """A new node, which knows its value's shape as the others do."""
        node = self._graph.call_function(target, args)
        node.meta["val"] = target(*map_arg(args, lambda arg: arg.meta["val"]))
        self._places[node] = self._now
        return node

    def _overwritten(self, read: Any, since: int) -> bool:
        """Whether what was read at some place has changed until now."""
        owners = {memory_owner(arg) for arg in read if isinstance(arg, Node)}
        return any(since < place < self._now and whose in owners for place, whose in self._writes)

    def _merged(self, terms: Sequence[Term]) -> Node:
        """One node for all these terms."""
        first = terms[0]
        if len(terms) == 1:
            return first.result
        operands = [self._stacked(tuple(nodes), dim) for nodes, dim in _summed_over([term.core for term in terms])]
        node = self._call(first.core.target, *operands, *first.core.args[len(operands) :])
        for passed in first.path:
            node = self._call(passed.target, node, *passed.args[1:])
        return node

    def _stacked(self, nodes: tuple[Node, ...], dim: int) -> Node:
        """The tensors side by side along a dimension; a change of order that they share comes after that."""
        first, dim = nodes[0], dim % len(_shape(nodes[0]))
        known = self._stacks.get((nodes, dim))
        if known is not None and not self._overwritten(nodes, self._places[known]):
            return known
        way = (first.target, first.args[1:])
        if first.target in REORDERINGS and all((node.target, node.args[1:]) == way for node in nodes):
            inner = tuple(node.args[0] for node in nodes)
            under = self._stacked(inner, _origin(first, dim))  # type: ignore[arg-type]
            stack = self._call(first.target, under, *first.args[1:])
        else:
            stack = self._call(aten.cat.default, list(nodes), dim)
        self._stacks[nodes, dim] = stack
        return stack


def _origin(node: Node, dim: int) -> int:
    """Where a dimension of what was reordered came from: seen on a tensor whose sizes are all different."""
    sizes = list(range(1, len(_shape(node)) + 1))
    reordered: Any = node.target
    return sizes.index(reordered(torch.empty(sizes, device="meta"), *node.args[1:]).shape[dim])


def _summed_over(cores: Sequence[Node]) -> list[tuple[list[Any], int]]:
    """The operands of products, or of sums, each with the dimension over which they sum."""
    target = cores[0].target
    dims: Sequence[Any] = cores[0].args[1] if target is SUM else PRODUCTS[target]  # type: ignore[assignment]
    return [([core.args[place] for core in cores], dim) for place, dim in enumerate(dims)]


def _term(summand: Node) -> Term:
    core = summand
    path: list[Node] = []
    while _is_shaping(core) and len(core.users) == 1:
        path.insert(0, core)
        core = core.args[0]  # type: ignore[assignment]
    if len(core.users) > 1 or not (core.target in PRODUCTS or _sums_one_dimension(core)):
        return Term(summand)
    own = () if core.target in PRODUCTS else core.args[1:]
    passed = [(node.target, node.args[1:], node.kwargs) for node in path]
    return Term(core, tuple(path), (core.target, _shape(core), core.meta["val"].dtype, str((own, passed))))


def _is_shaping(node: Node) -> bool:
    """Whether it gives what it is given, in another shape; a product with 1 does (`vmap` makes them)."""
    times_one = node.target in (aten.mul.Scalar, aten.mul.Tensor) and node.args[1] == 1
    return node.target in SHAPING or bool(times_one)


def _sums_one_dimension(node: Node) -> bool:
    if node.target is not SUM or node.kwargs or not _shape(node.args[0]):
        return False
    dims: Any = node.args[1]
    return isinstance(dims, Sequence) and len(dims) == 1


def _is_sum_of_two(node: Node) -> bool:
    """Whether it adds two different tensors of its own shape."""
    if node.target is not aten.add.Tensor or node.kwargs or node.args[0] is node.args[1]:
        return False
    return all(isinstance(arg, Node) and _shape(arg) == _shape(node) for arg in node.args)


def _is_root(node: Node) -> bool:
    """Whether it is a sum that is no summand of another one alone."""
    users = list(node.users)
    return _is_sum_of_two(node) and not (len(users) == 1 and _is_sum_of_two(users[0]))


def _summands(root: Node) -> list[Node]:
    """What a sum of sums adds up, in order."""
    found: list[Node] = []
    waiting: list[Any] = list(reversed(root.args))
    while waiting:
        node = waiting.pop()
        if _is_sum_of_two(node) and len(node.users) == 1:
            waiting.extend(reversed(node.args))
        else:
            found.append(node)
    return found


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _drop_idle_views(graph: Graph) -> None:
    """Take out views that have the shape of what they view: `vmap` leaves many."""
    for node in list(graph.nodes):
        if node.target is aten.view.default and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
