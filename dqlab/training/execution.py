"""Execution modes: how a program is run. The update is one object, the way it is executed another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dqlab.errors import ConfigError
from dqlab.registry import Registry
from dqlab.training.compiled import compile_program, signature
from dqlab.training.graphs import GraphRecorder
from dqlab.training.program import Program, Run, Tensors, leaves
from dqlab.training.toolchain import compiler, missing_for_triton


@dataclass(frozen=True)
class Budget:
    """What a choice of mode goes by: the device, and the floating-point operations of all updates' matrix products."""

    device: torch.device
    flops: float


COMPILING = "compiling: a minute or so the first time, two on a busy machine; seconds once it is cached"


class Mode:
    """Makes programs ready to run; those of one mode object share what they can (compiled code, memory)."""

    reason = "as configured"
    preparation = ""
    """What making a program ready takes, where one would notice."""

    def missing(self, device: torch.device) -> str:
        """What this machine lacks to run programs on that device this way; empty where nothing is."""
        return ""

    def settle(self, budget: Budget) -> Mode:
        """The mode to use for this budget: itself.

        Raises:
            ConfigError: it cannot run on this machine.
        """
        if lacking := self.missing(budget.device):
            raise ConfigError(f"Execution mode '{name_of(self)}' needs {lacking}. Use Training.execution='auto'.")
        return self

    def __call__(self, program: Program) -> Run:
        """A function without arguments that runs the program once and returns what it returns."""
        raise NotImplementedError


execution_modes: Registry[Callable[[], Mode]] = Registry(
    "execution",
    "How the update and the sampler are executed on the device; all modes compute the same.",
    "Training.execution",
)


def name_of(mode: Mode) -> str:
    """The registered name of a mode."""
    return next(entry.name for entry in execution_modes if entry.item is type(mode))


@execution_modes.register("eager", source="PyTorch")
class Eager(Mode):
    """Operation by operation, as written."""

    def __call__(self, program: Program) -> Run:
        """The function itself."""
        return lambda: program.function(program.tensors)


@execution_modes.register("compile", source="PyTorch's Inductor")
class Compile(Mode):
    """As one compiled graph of fused kernels; costs half a minute or more at first, seconds once it is cached."""

    preparation = COMPILING

    def __init__(self) -> None:
        self._compiled: dict[Any, Callable[[Tensors], Any]] = {}

    def missing(self, device: torch.device) -> str:
        """A C++ compiler on a CPU; elsewhere Triton, and what Triton needs."""
        if device.type == "cpu":
            return "" if compiler() else "a C++ compiler (g++ or clang++, or $CXX)"
        return missing_for_triton()

    def __call__(self, program: Program) -> Run:
        """The compiled function, shared by programs of one function and equal shapes."""
        function = self.function(program)
        return lambda: function(program.tensors)

    def function(self, program: Program) -> Callable[[Tensors], Any]:
        """The program's function, compiled."""
        key = (program.function, signature(program.tensors))
        if key not in self._compiled:
            self._compiled[key] = compile_program(program)
        return self._compiled[key]


@execution_modes.register("cuda_graph", source="CUDA graphs, as in LeanRL (2024)")
class CudaGraph(Mode):
    """Recorded once and replayed as one launch; costs a second."""

    def missing(self, device: torch.device) -> str:
        """A CUDA device."""
        return "" if device.type == "cuda" else "a CUDA device"

    def __init__(self) -> None:
        self._recorders: dict[torch.device, GraphRecorder] = {}

    def __call__(self, program: Program) -> Run:
        """A replay of the function as written."""
        return self.record(program, program.function)

    def record(self, program: Program, function: Callable[[Tensors], Any]) -> Run:
        """A replay of that function on the program's tensors; a mode's graphs share memory."""
        device = leaves(program.tensors)[0].device
        if device not in self._recorders:
            self._recorders[device] = GraphRecorder(device)
        return self._recorders[device].record(program, function)


@execution_modes.register("compile+cuda_graph", source="LeanRL (2024)")
class CompiledCudaGraph(CudaGraph):
    """Compiled into fused kernels, then recorded and replayed as one launch; the fastest on a GPU."""

    preparation = COMPILING

    def __init__(self) -> None:
        super().__init__()
        self._compile = Compile()

    def missing(self, device: torch.device) -> str:
        """A CUDA device, or what compiling for it needs."""
        return super().missing(device) or self._compile.missing(device)

    def __call__(self, program: Program) -> Run:
        """A replay of the compiled function."""
        return self.record(program, self._compile.function(program))


@dataclass(frozen=True)
class Pick:
    """What `auto` knows of one kind of device.

    Attributes:
        quick: a mode that starts at once.
        fast: one that is faster, after it has compiled.
        worth: floating-point operations from which on compiling pays.
    """

    quick: type[Mode]
    fast: type[Mode]
    worth: float


PICKS = {"cpu": Pick(Eager, Compile, 3e12), "cuda": Pick(CudaGraph, CompiledCudaGraph, 1e14)}
"""CPU: eager updates do some 40 GFLOP/s, compiled ones twice that; compiling takes half a minute. CUDA: a guess."""


@execution_modes.register("auto", source="measured: docs/performance.md")
class Auto(Mode):
    """The fastest mode that pays: compiled where there is enough to compute.

    It goes by the work, not by a clock: a run that is repeated is executed in the same way.
    """

    def settle(self, budget: Budget) -> Mode:
        """Compiled if all updates together are worth it; the reason says so."""
        pick = PICKS.get(budget.device.type, Pick(Eager, Eager, 0.0))
        lacking = pick.fast().missing(budget.device)
        mode = pick.quick() if lacking or budget.flops < pick.worth else pick.fast()
        work = f"{budget.flops / 1e12:.3g} TFLOP to do; compiling pays from {pick.worth / 1e12:.3g} on"
        mode.reason = f"compiling needs {lacking}, which is not here" if lacking else work
        return mode
