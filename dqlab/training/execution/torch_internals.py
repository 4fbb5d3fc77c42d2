"""What training uses of PyTorch that PyTorch does not document, all in one place: another version may rename it.

`diffusion/process.py` and `networks/stacking.py`, which lie below, say beside the line what each of them uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode


class OperationObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every elementary operation that is computed while it is entered, as a `with` block.

    `observe` is called with operation, arguments, keyword arguments and result. `FlopCounterMode` and the like do the
    same, but import the compiler, which takes a second of a run's start.
    """

    def __init__(self, observe: Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._observe = observe

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nobody compiles in here; to keep its compiler from looking in, PyTorch would import it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._observe(func, args, kwargs or {}, result)
        return result


def clear_cublas_workspaces() -> None:
    """Free the workspaces that cuBLAS keeps for each stream; there is no public call for it."""
    torch._C._cuda_clearCublasWorkspaces()


def known_inductor_options(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that this PyTorch's Inductor has: it refuses others."""
    import torch._inductor.config as known

    return {name: value for name, value in wanted.items() if hasattr(known, name)}


def compile_graph(graph: torch.fx.GraphModule, values: list[Any], options: Mapping[str, Any]) -> Any:
    """A graph of elementary operations, compiled for tensors like these.

    `torch.compile` would have Dynamo trace it again, a fifth of the time, and look at all tensors before every run.
    """
    import torch._inductor

    with torch.no_grad():
        return torch._inductor.compile(graph, values, options=dict(options))


def onednn_linear(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b.T + bias by oneDNN, through the operator that Inductor itself calls; there is no public one."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")  # type: ignore[no-any-return]


@cache
def call_onednn_from_cpp(operator: Any) -> None:
    """Have Inductor write a call of oneDNN into its C++ where a graph has an operator (a, weight, bias) that is one.

    Otherwise it goes by way of Python, as it does where this PyTorch names things otherwise: 6% of an update's time.
    """
    try:
        from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
        from torch._inductor.lowering import register_lowering
        from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node
    except ImportError:
        return

    def by_rows(matrix: Any) -> Any:
        return ExternKernel.require_contiguous(ExternKernel.realize_input(matrix))

    def lower(a: Any, weight: Any, bias: Any) -> Any:
        inputs = [by_rows(a), ExternKernel.realize_input(weight), *([] if bias is None else [by_rows(bias)])]
        constants = [*([None] if bias is None else []), "none", [-1], ""]
        layout = FixedLayout(device=a.get_device(), dtype=a.get_dtype(), size=[a.get_size()[0], weight.get_size()[0]])
        product = LinearUnary(layout=layout, inputs=inputs, constant_args=constants)
        return TensorBox.create(_create_output_node(product))  # type: ignore[no-untyped-call]

    register_lowering(operator, type_promotion_kind=None)(lower)


def operator_schema(node: Node) -> Any:
    """What the operator that a graph's node calls changes and aliases; None where the node calls none."""
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def trace_elementary(function: Callable[..., Any], values: list[Tensor], rules: Mapping[Any, Any]) -> Any:
    """The graph of elementary operations of a function of tensors, traced with fake ones in their place.

    Constants that the function holds are real tensors: only this flag, which is not documented, lets them pass.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, decomposition_table=dict(rules), tracing_mode="fake", _allow_non_fake_inputs=True)(*values)
