"""Matrix products of compiled programs.

On a CPU: PyTorch's own. It hands float32 products to MKL, which on AMD's processors does without AVX-512. Up to Zen 4
that costs nothing; from Zen 5 on oneDNN, also part of PyTorch, takes half the time with it. It is reached through the
operator that PyTorch's own compiler uses; where that is missing or gives a wrong product, PyTorch's choice stands.

On a GPU, where each is a launch or two: products that are narrow (an action's six columns, a critic's one) are written
as sums of elementwise products, which the compiler fuses with what comes before and after them. And what a program adds
up is computed at once: a layer that is called several times (a denoiser, N times a chain) gets a gradient from every
call, as many products for its weight, as many sums over rows for its bias. But A1 B1 + A2 B2 = [A1 A2] [B1; B2]: one
product, and one sum, over more rows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from dqlab.machine import processor_family
from dqlab.training.execution.torch_internals import onednn_linear, operator_schema

aten = torch.ops.aten
_library: Any = torch.library.Library("dqlab", "DEF")  # type: ignore[no-untyped-call]
_library.define("linear(Tensor a, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("linear", lambda a, weight, bias: onednn_linear(a, weight, bias), "CPU")
_library.impl("linear", lambda a, weight, bias: a.new_empty(a.shape[0], weight.shape[0]), "Meta")


@cache
def onednn_available() -> bool:
    """Whether oneDNN's product is there and right: tried on a small product, and on a transposed one."""
    try:
        a, b = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(4, 2)
        return torch.equal(onednn_linear(a, b.t()), a @ b) and torch.equal(onednn_linear(b.t(), a), b.t() @ a.t())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@cache
def onednn_pays() -> bool:
    """Whether oneDNN multiplies faster than what PyTorch would call: by the processor, not by a trial that may vary."""
    vendor, family = processor_family()
    return vendor == "AuthenticAMD" and family >= 26 and onednn_available()  # Zen 5's, whose AVX-512 is 512 bits wide


START = 500_000
"""Multiplications below which PyTorch's product is faster: a call of oneDNN's takes ten microseconds to begin."""
FEW_COLUMNS = 64
"""A product of fewer columns than that, and than it has rows, takes up to a third of the time as the transposed one."""


def _mm(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Any:
    """Of plain matrices of one type on a CPU, none of them empty; NotImplemented where PyTorch's own product stands."""
    given = (a, b) if bias is None else (a, b, bias)
    plain = all(each.device.type == "cpu" and each.dtype == a.dtype and each.numel() for each in given)
    if not plain or a.dtype not in (torch.float32, torch.bfloat16) or not onednn_pays():
        return NotImplemented
    full = a.dtype == torch.float32  # PyTorch gives bfloat16 to oneDNN itself, whatever the size, by a longer way
    few_columns = full and b.shape[1] < min(FEW_COLUMNS, a.shape[0])
    if bias is not None and (few_columns or bias.ndim != 1):
        return torch.mm(a, b) + bias
    if few_columns:
        return torch.mm(b.t(), a.t()).t().contiguous()
    if full and a.numel() * b.shape[1] < START:
        return NotImplemented
    dense = b.t().is_contiguous() or b.is_contiguous()  # with gaps oneDNN takes a hundred times as long
    # by rows, as oneDNN wants its first one: the compiler's own copy is faster than oneDNN's
    return torch.ops.dqlab.linear(a.contiguous(), (b if dense else b.contiguous()).t(), bias)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    return _mm(a, b, bias) if beta == alpha == 1 else NotImplemented


NARROW = 8
"""Columns that make a product narrow: sums of so few terms are written out by PyTorch's compiler."""


def is_narrow(a: Tensor, b: Tensor) -> bool:
    """Whether a product (..., R, T) (..., T, C) of full precision sums few terms, or is one matrix of few columns."""
    few = a.shape[-1] <= NARROW or (b.ndim == 2 and b.shape[-1] <= NARROW)
    return few and a.dtype in (torch.float32, torch.float64) and min(*a.shape, *b.shape) > 0


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """The same product as sums of elementwise products, over the terms where they are few, else along rows."""
    if a.shape[-1] <= NARROW:
        return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2).contiguous()
    return (a.unsqueeze(-2) * b.transpose(-1, -2).unsqueeze(-3)).sum(-1).contiguous()


def _narrow(a: Tensor, b: Tensor) -> Any:
    return narrow_product(a, b) if is_narrow(a, b) else NotImplemented


def _narrow_plus(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if not is_narrow(a, b) or not beta or not alpha:  # PyTorch does not look at what is multiplied by 0
        return NotImplemented
    product = narrow_product(a, b)  # first, since the sum is laid out as its first summand
    return (product if alpha == 1 else alpha * product) + (bias if beta == 1 else beta * bias)


def product_decompositions(device: torch.device) -> dict[Any, Callable[..., Any]]:
    """What a program that is compiled for that device makes of PyTorch's matrix products."""
    if device.type == "cpu":
        return {aten.mm.default: _mm, aten.addmm.default: _addmm}
    sums = dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _narrow_plus)
    return {aten.mm.default: _narrow, aten.bmm.default: _narrow, **sums}


PRODUCTS: dict[Any, tuple[int, int]] = {aten.mm.default: (-1, 0), aten.bmm.default: (-1, 1)}
"""Products of matrices, and the dimension of the first and of the second operand along which they sum."""
SUM = aten.sum.dim_IntList
REORDERINGS = (aten.t.default, aten.transpose.int, aten.permute.default)
"""What puts dimensions into another order."""
SHAPING = (*REORDERINGS, aten.view.default, aten.reshape.default)
"""What a summand may pass through on its way to the sum; as well as products with 1, which `vmap` makes."""
TIMES = (aten.mul.Scalar, aten.mul.Tensor)


def merge_sums(graph: Graph) -> int:
    """Merge the summed products in a graph of `make_fx`, in place; returns how many products and sums it has fewer."""
    for node in list(graph.nodes):  # views of the shape of what they view: `vmap` leaves many
        if node.target is aten.view.default and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    merger, saved = _Merger(graph), 0
    for node in list(graph.nodes):
        users = list(node.users)
        if _is_sum_of_two(node) and not (len(users) == 1 and _is_sum_of_two(users[0])):  # no summand of another sum
            saved += merger.merge(node)
    graph.eliminate_dead_code()
    return saved


def memory_owner(node: Node) -> Node | None:
    """The node in whose memory this one's values lie; nobody in particular for arguments, which may share theirs."""
    while True:
        schema = operator_schema(node)
        aliases = bool(schema) and any(result.alias_info is not None for result in schema.returns)
        if not (aliases or node.target is operator.getitem) or not isinstance(node.args[0], Node):
            return None if node.op in ("placeholder", "get_attr") else node
        node = node.args[0]


class Term(NamedTuple):
    """A summand; the product, or the sum over one dimension, that it is made of, else itself; the shaping that follows;
    and a kind, in which those are equal that can be merged, empty where none can.
    """

    summand: Node
    core: Node
    path: Sequence[Node] = ()
    kind: tuple[Any, ...] = ()


class _Merger:
    """Merges the terms of one sum after the other; equal operands are put side by side once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        # whatever an operation that changes an argument is given counts as changed
        changing = [node for node in graph.nodes if (schema := operator_schema(node)) and schema.is_mutable]
        self._writes = [(self._places[node], memory_owner(arg)) for node in changing for arg in node.all_input_nodes]
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
        summand, core, path, _ = terms[0]
        if len(terms) == 1:
            return summand
        dims: Any = core.args[1] if core.target is SUM else PRODUCTS[core.target]  # over which they sum
        columns: Any = zip(*(term.core.args for term in terms), strict=True)
        operands = [self._stacked(nodes, dim) for nodes, dim in zip(columns, dims, strict=False)]
        node = self._call(core.target, *operands, *core.args[len(operands) :])
        for passed in path:
            node = self._call(passed.target, node, *passed.args[1:])
        return node

    def _stacked(self, nodes: tuple[Node, ...], dim: int) -> Node:
        """The tensors side by side along a dimension; a change of order that they share comes after that."""
        first, sizes = nodes[0], list(range(1, len(_shape(nodes[0])) + 1))
        dim %= len(sizes)
        known = self._stacks.get((nodes, dim))
        if known is not None and not self._overwritten(nodes, self._places[known]):
            return known
        way: Any = (first.target, first.args[1:])
        if first.target in REORDERINGS and all((node.target, node.args[1:]) == way for node in nodes):
            inner: Any = tuple(node.args[0] for node in nodes)
            # where the dimension came from: seen on a tensor whose sizes are all different
            origin = sizes.index(way[0](torch.empty(sizes, device="meta"), *way[1]).shape[dim])
            stack = self._call(first.target, self._stacked(inner, origin), *first.args[1:])
        else:
            stack = self._call(aten.cat.default, list(nodes), dim)
        self._stacks[nodes, dim] = stack
        return stack


def _term(summand: Node) -> Term:
    core: Any = summand
    path: list[Node] = []
    while len(core.users) == 1 and (core.target in SHAPING or (core.target in TIMES and core.args[1] == 1)):
        path.insert(0, core)
        core = core.args[0]
    dims = core.args[1] if core.target is SUM and not core.kwargs and _shape(core.args[0]) else ()
    sums_one = isinstance(dims, Sequence) and len(dims) == 1
    if len(core.users) > 1 or not (core.target in PRODUCTS or sums_one):
        return Term(summand, summand)
    own = () if core.target in PRODUCTS else core.args[1:]
    passed = [(node.target, node.args[1:], node.kwargs) for node in path]
    return Term(summand, core, path, (core.target, _shape(core), core.meta["val"].dtype, str((own, passed))))


def _is_sum_of_two(node: Node) -> bool:
    """Whether it adds two different tensors of its own shape."""
    if node.target is not aten.add.Tensor or node.kwargs or node.args[0] is node.args[1]:
        return False
    return all(isinstance(arg, Node) and _shape(arg) == _shape(node) for arg in node.args)


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
