"""A program: a function of tensors that stay where they are, so that it can be compiled, captured and replayed."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqlab.errors import ConfigError, first_line, lacks_memory
from dqlab.machine import processor_family
from dqlab.networks import activations
from dqlab.training.execution import products
from dqlab.training.execution.products import merge_sums
from dqlab.training.execution.torch_internals import (
    call_onednn_from_cpp,
    compile_graph,
    known_inductor_options,
    trace_elementary,
)

TensorTree = dict[str, Any]
"""Tensors by name, nested in dicts and (named) tuples."""


@dataclass(frozen=True)
class Program:
    """What an execution mode runs, again and again, on the same tensors.

    Attributes:
        function: from tensors to tensors. It may change some of its arguments in place; it reads nothing else that
            changes, draws no random numbers, and never looks at a value. Whoever makes a program has called all of it
            once before, so that constants which are made at first use exist.
        tensors: its arguments. New input is written into them, in place.
        changes: names of those that it changes.
    """

    function: Callable[[TensorTree], Any]
    tensors: TensorTree
    changes: tuple[str, ...] = ()


RunProgram = Callable[[], Any]


def to_device(device: torch.device, values: Tensor) -> Tensor:
    """Values on a device; from the host to a GPU out of page-locked memory, for which the host need not wait."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def tree_map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply `function` to every tensor in nested dicts, tuples and named tuples; None stays None."""
    if isinstance(value, tuple):
        items = [tree_map(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, Mapping):
        return {key: tree_map(function, item) for key, item in value.items()}
    return None if value is None else function(value)


def nested_tensors(value: Any) -> list[Tensor]:
    """Every tensor in nested dicts and tuples."""
    if value is None or isinstance(value, Tensor):
        return [] if value is None else [value]
    children = value.values() if isinstance(value, Mapping) else value
    return [leaf for child in children for leaf in nested_tensors(child)]


def concatenate_nested(parts: list[Any]) -> Any:
    """Concatenate, along the first axis, the tensors of equally nested values; one part is handed back as it is."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Mapping):
        return {key: concatenate_nested([part[key] for part in parts]) for key in parts[0]}
    return torch.cat(parts)


_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_caches / "dqlab" / "inductor"))
"""Where compiled code is kept between runs: set here, before PyTorch chooses a folder that is emptied at boot."""
if processor_family()[0] == "AuthenticAMD":
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
"""The first program would wait for trials of the processor's vector instructions, a quarter of the time of compiling.
Any compiler that knows PyTorch's C++20 knows those of AMD's processors; of Intel's newest it may not."""

OPTIONS_ON_CPU: dict[str, Any] = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
"""Settings of Inductor for CPUs: what calls the kernels is C++, too, 4% faster than Python; it is compiled by itself,
with few optimisations, which takes a third to two thirds off the C++ compiler's time and nothing off the speed."""
OPTIONS_ON_GPU: dict[str, Any] = {"deterministic": True}
"""Settings of Inductor for GPUs, those that this PyTorch has. It would choose kernels by how long they take just then,
so that the same program, compiled twice, rounds differently; deterministic, it goes by shapes (2.10 and later)."""


def compile_program(program: Program) -> Callable[[TensorTree], Any]:
    """The program's function, compiled for tensors of these shapes; what it changes stays as it is.

    It is traced down to PyTorch's elementary operations, once, the backward passes included, whatever the Python of a
    loss or a plugin's network looks like; then Inductor fuses them. Compiled code is kept on disk between runs.

    Raises:
        ConfigError: the function looks at values of tensors, or the machine cannot compile.
    """
    shape, leaves = [None], nested_tensors(program.tensors)
    device = leaves[0].device

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        given = iter(values)
        shape[0] = program.function(tree_map(lambda _: next(given), program.tensors))
        return tuple(nested_tensors(shape[0]))

    try:
        if device.type == "cpu" and products.onednn_pays():
            call_onednn_from_cpp(torch.ops.dqlab.linear)
        options = known_inductor_options(OPTIONS_ON_CPU if device.type == "cpu" else OPTIONS_ON_GPU)
        compiled = compile_graph(trace_program(flat, leaves), leaves, options)
        copies = {name: tree_map(torch.clone, program.tensors[name]) for name in program.changes}
        compiled(*nested_tensors({**program.tensors, **copies}))
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ConfigError(
            f"This program cannot be compiled here: {type(error).__name__}: {first_line(error)[:300]}. "
            f"Use Training.execution='{'cuda_graph' if device.type == 'cuda' else 'eager'}'."
        ) from error

    def run(tensors: TensorTree) -> Any:
        values = iter(compiled(*nested_tensors(tensors)))
        return tree_map(lambda _: next(values), shape[0])

    return run


def trace_program(
    function: Callable[..., Any], values: list[Tensor], device: torch.device | None = None
) -> torch.fx.GraphModule:
    """The graph of elementary operations of a function, for these tensors' device or another; nothing is computed."""
    products.onednn_pays()  # found out with real numbers, before the tracing
    device = device or values[0].device
    rules = {**activations.DECOMPOSITIONS, **products.product_decompositions(device)}
    graph: torch.fx.GraphModule = trace_elementary(function, values, rules)
    if device.type != "cpu":
        merge_sums(graph.graph)
        graph.recompile()
    return graph


def cpp_compiler() -> str:
    """The C++ compiler that Inductor would use on a CPU, or nothing."""
    return _found("CXX", "g++", "clang++")


def missing_for_triton() -> str:
    """What this machine lacks to compile for a GPU, if anything: Triton, or what builds its launchers of kernels."""
    if find_spec("triton") is None:
        return "Triton (pip install triton)"
    if not _found("CC", "gcc", "clang"):
        return "a C compiler (gcc or clang, or $CC)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if header.exists() else "Python.h, for Triton's launchers (apt-get install python3-dev)"


def _found(variable: str, *names: str) -> str:
    """The first of these programs that there is, one that an environment variable names before all others."""
    wanted = [os.environ.get(variable, ""), *names]
    return next((found for name in wanted if name and (found := shutil.which(name))), "")
