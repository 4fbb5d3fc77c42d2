"""Merging of summed products: what a traced program adds up, it computes at once.

A layer that is called several times (a denoiser, N times a chain) gets a gradient from every call: as many products for
its weight, as many sums over rows for its bias, added up. But A1 B1 + A2 B2 = [A1 A2] [B1; B2]: one product, and one
sum, over more rows. On a GPU each of them would be a launch or two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

PRODUCTS: dict[Any, tuple[int, int]] = {aten.mm.default: (0, -1), aten.bmm.default: (1, -1)}
"""Products of matrices, and the dimension of the second and of the first operand along which they sum."""
SUM = aten.sum.dim_IntList


def _swapped(node: Node, dim: int) -> int:
    one, other = (int(place) % len(_shape(node)) for place in node.args[1:])  # type: ignore[arg-type]
    return {one: other, other: one}.get(dim, dim)


def _permuted(node: Node, dim: int) -> int:
    order: Any = node.args[1]
    return int(order[dim]) % len(order)


REORDERINGS: dict[Any, Callable[[Node, int], int]] = {
    aten.t.default: lambda node, dim: 1 - dim,
    aten.transpose.int: _swapped,
    aten.permute.default: _permuted,
}
"""What puts dimensions into another order, and where each came from."""
SHAPING = (*REORDERINGS, aten.view.default, aten.reshape.default)
"""What a summand may pass through on its way to the sum."""


def merge_sums(graph: Graph) -> int:
    """Merge the summed products in a graph of elementary operations, in place.

    Returns:
        How many products and sums it has fewer.
    """
    _drop_idle_views(graph)
    places = {node: place for place, node in enumerate(graph.nodes)}
    writes = [(place, _owner(node)) for node, place in places.items() if _writes(node)]
    stacks: dict[tuple[Any, ...], Node] = {}
    saved = 0
    for root in [node for node in places if _is_root(node)]:
        terms = [_term(summand) for summand in _summands(root)]
        groups: dict[tuple[Any, ...], list[Term]] = {}
        for term in terms:
            alone = () if term.kind and not _overwritten(term, places, places[root], writes) else (term,)
            groups.setdefault((*term.kind, *alone), []).append(term)
        if len(groups) == len(terms):
            continue
        with graph.inserting_before(root):
            merged = [_merged(graph, group, stacks) for group in groups.values()]
            root.replace_all_uses_with(reduce(lambda a, b: graph.call_function(aten.add.Tensor, (a, b)), merged))
        saved += len(terms) - len(groups)
    graph.eliminate_dead_code()
    return saved


@dataclass(frozen=True)
class Term:
    """A summand.

    Attributes:
        core: the product or the sum over one dimension that it is made of; another summand itself.
        path: the shaping that follows, the last one being the summand.
        kind: terms that are equal in this can be merged; empty where none can.
    """

    core: Node
    path: tuple[Node, ...]
    kind: tuple[Any, ...]

    @property
    def result(self) -> Node:
        """The summand."""
        return self.path[-1] if self.path else self.core


def _term(summand: Node) -> Term:
    core = summand
    path: list[Node] = []
    while _is_shaping(core) and len(core.users) == 1:
        path.insert(0, core)
        core = core.args[0]  # type: ignore[assignment]
    if len(core.users) > 1 or not (core.target in PRODUCTS or _sums_one_dimension(core)):
        return Term(summand, (), ())
    own = () if core.target in PRODUCTS else (core.args[1:], core.kwargs)
    passed = [(node.target, node.args[1:]) for node in path]
    return Term(core, tuple(path), (core.target, _shape(core), _dtype(core), str((own, passed))))


def _is_shaping(node: Node) -> bool:
    """Whether it gives what it is given, in another shape; a product with 1 does (`vmap` makes them)."""
    times_one = node.target in (aten.mul.Scalar, aten.mul.Tensor) and node.args[1] == 1
    return node.target in SHAPING or bool(times_one)


def _sums_one_dimension(node: Node) -> bool:
    return node.target is SUM and len(node.args[1]) == 1 and not node.kwargs  # type: ignore[arg-type]


def _merged(graph: Graph, terms: Sequence[Term], stacks: dict[tuple[Any, ...], Node]) -> Node:
    """One node for all these terms."""
    first = terms[0]
    if len(terms) == 1:
        return first.result
    cores = [term.core for term in terms]

    def stack(operand: int, dim: int) -> Node:
        return _stacked(graph, tuple(core.args[operand] for core in cores), dim, stacks)  # type: ignore[misc]

    if first.core.target in PRODUCTS:
        of_second, of_first = PRODUCTS[first.core.target]
        operands: tuple[Any, ...] = stack(0, of_first), stack(1, of_second)
    else:
        operands = stack(0, first.core.args[1][0]), *first.core.args[1:]  # type: ignore[index,arg-type]
    node = graph.call_function(first.core.target, operands)  # type: ignore[arg-type]
    for passed in first.path:
        node = graph.call_function(passed.target, (node, *passed.args[1:]))  # type: ignore[arg-type]
    return node


def _stacked(graph: Graph, nodes: tuple[Node, ...], dim: int, stacks: dict[tuple[Any, ...], Node]) -> Node:
    """The tensors side by side along a dimension; before a change of order that they share, where rows are written."""
    first, dim = nodes[0], dim % len(_shape(nodes[0]))
    key = nodes, dim
    if key not in stacks:
        if first.target in REORDERINGS and all(_alike(node, first) for node in nodes):
            inner = tuple(node.args[0] for node in nodes)
            under = _stacked(graph, inner, REORDERINGS[first.target](first, dim), stacks)  # type: ignore[arg-type]
            stacks[key] = graph.call_function(first.target, (under, *first.args[1:]))  # type: ignore[arg-type]
        else:
            stacks[key] = graph.call_function(aten.cat.default, (list(nodes), dim))
    return stacks[key]


def _alike(node: Node, other: Node) -> bool:
    return (node.target, node.args[1:]) == (other.target, other.args[1:])


def _is_sum_of_two(node: Node) -> bool:
    return (
        node.target is aten.add.Tensor
        and not node.kwargs
        and all(isinstance(arg, Node) and _shape(arg) == _shape(node) for arg in node.args)
    )


def _is_root(node: Node) -> bool:
    """Whether it is a sum that is no summand of another one alone."""
    users = list(node.users)
    return _is_sum_of_two(node) and not (len(users) == 1 and _is_sum_of_two(users[0]))


def _summands(node: Node) -> Iterator[Node]:
    for arg in node.args:
        assert isinstance(arg, Node)
        if _is_sum_of_two(arg) and len(arg.users) == 1:
            yield from _summands(arg)
        else:
            yield arg


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _drop_idle_views(graph: Graph) -> None:
    """Take out views that have the shape of what they view: `vmap` leaves many."""
    for node in list(graph.nodes):
        if node.target is aten.view.default and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _writes(node: Node) -> bool:
    """Whether it changes its first argument."""
    schema = _schema(node)
    return bool(schema and schema.is_mutable)


def _owner(node: Node) -> Node:
    """The node in whose memory this one's values lie."""
    schema = _schema(node)
    borrowed = node.target is operator.getitem or (schema and any(result.alias_info for result in schema.returns))
    return _owner(node.args[0]) if borrowed else node  # type: ignore[arg-type]


def _overwritten(term: Term, places: dict[Node, int], end: int, writes: list[tuple[int, Node]]) -> bool:
    """Whether what the term reads is changed before the sum, where it would be read from now on."""
    read = {_owner(arg) for arg in term.core.args if isinstance(arg, Node)}
    return any(places[term.core] < place < end and owner in read for place, owner in writes)
