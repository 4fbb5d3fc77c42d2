"""Execution modes: how a program is run. The update is one object, the way it is executed another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dqlab.errors import ConfigError
from dqlab.registry import Registry
from dqlab.training.compiled import compile_program, compiler, signature
from dqlab.training.graphs import capture
from dqlab.training.program import Program, Run, Tensors


@dataclass(frozen=True)
class Budget:
    """What a choice of mode goes by: the device, and the seconds that all updates would take operation by operation."""

    device: torch.device
    eager_seconds: float


class Mode:
    """Makes programs ready to run; those of one mode object share what they can (compiled code, memory)."""

    reason = "as configured"

    def missing(self, device: torch.device) -> str:
        """What this machine lacks to run programs on that device this way; empty where nothing is."""
        return ""

    def settle(self, budget: Budget) -> Mode:
        """The mode to use for this budget: itself.

        Raises:
            ConfigError: it cannot run on this machine.
        """
        if lacking := self.missing(budget.device):
            raise ConfigError(
                f"Execution mode '{name_of(self)}' needs {lacking}. Use Training.execution='auto' or 'eager'."
            )
        return self

    def __call__(self, program: Program) -> Run:
        """A function without arguments that runs the program once and returns what it returns."""
        raise NotImplementedError


execution_modes: Registry[Callable[[], Mode]] = Registry(
    "execution", "How the update and the sampler are executed on the device; all modes compute the same."
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

    def __init__(self) -> None:
        self._compiled: dict[Any, Callable[[Tensors], Any]] = {}

    def missing(self, device: torch.device) -> str:
        """A C++ compiler, on a CPU."""
        return "" if device.type != "cpu" or compiler() else "a C++ compiler (g++ or clang++, or $CXX)"

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

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def __call__(self, program: Program) -> Run:
        """A replay of the function as written."""
        return capture(program, program.function, self._pool)


@execution_modes.register("compile+cuda_graph", source="LeanRL (2024)")
class CompiledCudaGraph(CudaGraph):
    """Compiled into fused kernels, then recorded and replayed as one launch; the fastest on a GPU."""

    def __init__(self) -> None:
        self._compile = Compile()

    def __call__(self, program: Program) -> Run:
        """A replay of the compiled function."""
        return capture(program, self._compile.function(program), self._pool)


@dataclass(frozen=True)
class Pick:
    """What `auto` knows of one kind of device: a mode that starts at once, one that is faster, and what that one costs.

    Attributes:
        saves: the share of the eager time that the faster one saves over the quicker start.
        costs: seconds until it runs, with nothing cached.
    """

    quick: type[Mode]
    fast: type[Mode]
    saves: float
    costs: float


PICKS = {"cpu": Pick(Eager, Compile, 0.4, 45.0), "cuda": Pick(CudaGraph, CompiledCudaGraph, 0.05, 120.0)}


@execution_modes.register("auto", source="measured: docs/performance.md")
class Auto(Mode):
    """The fastest mode that pays: compiled where the budget is worth the time of compiling."""

    def settle(self, budget: Budget) -> Mode:
        """Compiled if it saves more seconds over the run than compiling costs; the reason says so."""
        pick = PICKS.get(budget.device.type, Pick(Eager, Eager, 0.0, 0.0))
        saved, lacking = pick.saves * budget.eager_seconds, pick.fast().missing(budget.device)
        mode = pick.quick() if lacking or saved <= pick.costs else pick.fast()
        what = f"compiling would save about {saved:,.0f} s of this run and costs up to {pick.costs:.0f} s"
        mode.reason = f"there is not {lacking}" if lacking else what
        return mode
