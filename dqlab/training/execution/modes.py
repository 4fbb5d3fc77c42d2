"""Execution modes: how a program is run. The update is one object, the way it is executed another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dqlab.config.registry import Registry
from dqlab.errors import CaptureError, ConfigError, first_line
from dqlab.training.execution.program import (
    Program,
    RunProgram,
    TensorTree,
    compile_program,
    cpp_compiler,
    missing_for_triton,
    nested_tensors,
)
from dqlab.training.execution.torch_internals import clear_cublas_workspaces


class ExecutionMode:
    """Makes programs ready to run; those of one mode object share what they can (compiled code, memory)."""

    reason = "as configured"
    preparation = ""
    """What making a program ready takes, where one would notice."""

    def unavailable_reason(self, device: torch.device) -> str:
        """What this machine lacks to run programs on that device this way; empty where nothing is."""
        return ""

    def resolve(self, device: torch.device, flops: float = 0.0) -> ExecutionMode:
        """The mode to use: itself, or a ConfigError if it cannot run here; `auto` goes by all updates' operations."""
        if lacking := self.unavailable_reason(device):
            raise ConfigError(f"Execution mode '{name_of(self)}' needs {lacking}. Use Training.execution='auto'.")
        return self

    def __call__(self, program: Program) -> RunProgram:
        """A function without arguments that runs the program once and returns what it returns."""
        raise NotImplementedError


execution_modes: Registry[Callable[[], ExecutionMode]] = Registry(
    "execution",
    "How the update and the sampler are executed on the device; all modes compute the same.",
    "Training.execution",
)


def name_of(mode: ExecutionMode) -> str:
    """The registered name of a mode."""
    return next(entry.name for entry in execution_modes if entry.item is type(mode))


@execution_modes.register("eager", source="PyTorch", cites=("paszke2019pytorch",))
class Eager(ExecutionMode):
    """Operation by operation, as written."""

    def __call__(self, program: Program) -> RunProgram:
        return lambda: program.function(program.tensors)


COMPILING = "compiling: a minute or so the first time, two on a busy machine; seconds once it is cached"


@execution_modes.register("compile", source="PyTorch's Inductor", cites=("paszke2019pytorch",))
class Compile(ExecutionMode):
    """As one compiled graph of fused kernels; costs half a minute or more at first, seconds once it is cached."""

    preparation = COMPILING

    def __init__(self) -> None:
        self._compiled: dict[Any, Callable[[TensorTree], Any]] = {}

    def unavailable_reason(self, device: torch.device) -> str:
        if device.type == "cpu":
            return "" if cpp_compiler() else "a C++ compiler (g++ or clang++, or $CXX)"
        return missing_for_triton()

    def __call__(self, program: Program) -> RunProgram:
        function = self.function(program)
        return lambda: function(program.tensors)

    def function(self, program: Program) -> Callable[[TensorTree], Any]:
        """The compiled function, shared by programs of one function whose tensors are alike."""
        tensors = nested_tensors(program.tensors)
        key = (program.function, *((each.shape, each.stride(), each.dtype, each.device) for each in tensors))
        if key not in self._compiled:
            self._compiled[key] = compile_program(program)
        return self._compiled[key]


@execution_modes.register("cuda_graph", source="CUDA graphs, as in LeanRL (2024)", cites=("leanrl2024",))
class CudaGraph(ExecutionMode):
    """Recorded once and replayed as one launch; costs about a second, by estimate."""

    def unavailable_reason(self, device: torch.device) -> str:
        return "" if device.type == "cuda" else "a CUDA device"

    def __init__(self) -> None:
        self._shared: dict[torch.device, tuple[Any, torch.cuda.Stream]] = {}

    def __call__(self, program: Program) -> RunProgram:
        return self.record(program, program.function)

    def record(self, program: Program, function: Callable[[TensorTree], Any]) -> RunProgram:
        """A replay of one run of `function`, the program's or a compiled version of it, on the program's tensors.

        The next replay overwrites its result; what warm-up runs changed is put back. A mode's programs never
        run at the same time: graphs on one device share memory, and a stream for their recordings.

        Raises:
            CaptureError: it cannot be recorded. CUDA's state in this process is undefined from then on.
        """
        cause: Exception | None = None
        device = nested_tensors(program.tensors)[0].device
        try:
            with torch.cuda.device(device):  # each thread has a current device, and a recording is of that one
                if device not in self._shared:
                    made = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
                    self._shared[device] = made
                pool, stream = self._shared[device]
                warm_up(program, function, stream)
                graph = torch.cuda.CUDAGraph()
                with exclusive_recording(), torch.cuda.graph(graph, pool=pool, stream=stream):
                    try:
                        result = function(program.tensors)
                    except Exception as error:
                        cause = error  # the recording fails once more where it ends
                        raise
        except Exception as error:
            cause = cause or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from error
            raise CaptureError(
                f"The CUDA graph could not be recorded: {type(cause).__name__}: {first_line(cause)}. "
                "What this process computes on the GPU from here on is not to be believed, so it ends. Start it again "
                "with Training.execution='eager'."
            ) from cause

        def run() -> Any:
            graph.replay()
            return result

        return run


@execution_modes.register("compile+cuda_graph", source="LeanRL (2024)", cites=("leanrl2024",))
class CompiledCudaGraph(CudaGraph):
    """Compiled into fused kernels, then recorded and replayed as one launch; meant to be the fastest on a GPU."""

    preparation = COMPILING

    def __init__(self) -> None:
        super().__init__()
        self._compile = Compile()

    def unavailable_reason(self, device: torch.device) -> str:
        return super().unavailable_reason(device) or self._compile.unavailable_reason(device)

    def __call__(self, program: Program) -> RunProgram:
        return self.record(program, self._compile.function(program))


AUTO_CHOICES = {"cpu": (Eager, Compile, 3e12), "cuda": (CudaGraph, CompiledCudaGraph, 1e14)}
"""By type of device: a mode that starts at once, one that is faster once it has compiled, and the operations from which
on that pays. CPU: eager updates do some 40 GFLOP/s, compiled ones twice that; compiling takes half a minute. CUDA: a
guess."""


@execution_modes.register("auto", source="measured: docs/performance.md")
class Auto(ExecutionMode):
    """The fastest mode that pays: compiled where there is enough to compute.

    It goes by the work, not by a clock: a run that is repeated is executed in the same way.
    """

    def resolve(self, device: torch.device, flops: float = 0.0) -> ExecutionMode:
        quick, fast, worth = AUTO_CHOICES.get(device.type, (Eager, Eager, 0.0))
        lacking = fast().unavailable_reason(device)
        mode: ExecutionMode = quick() if lacking or flops < worth else fast()
        work = f"{flops / 1e12:.3g} TFLOP to do; compiling pays from {worth / 1e12:.3g} on"
        mode.reason = f"compiling needs {lacking}, which is not here" if lacking else work
        return mode


def warm_up(program: Program, function: Callable[[TensorTree], Any], stream: torch.cuda.Stream) -> None:
    """Three runs, in which libraries make handles and choose kernels, on the recordings' stream, each undone."""
    changed = [tensor for name in program.changes for tensor in nested_tensors(program.tensors[name])]
    kept = [tensor.clone() for tensor in changed]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(program.tensors)
            for tensor, value in zip(changed, kept, strict=True):
                tensor.copy_(value)
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def exclusive_recording() -> Iterator[None]:
    """A recording that nothing else interferes with.

    Workspaces of cuBLAS are freed just before and after it, so that it takes them from the graph's own memory: PyTorch
    keeps one for each stream, and frees them all when any graph is destroyed (2.12 and 2.13; its issues 175276 and
    193402). And garbage is collected before, not during it: to destroy an older graph, which garbage may hold, is not
    permitted while another one is recorded (issue 161037).
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    clear_cublas_workspaces()
    try:
        yield
    finally:
        clear_cublas_workspaces()
        if collecting:
            gc.enable()
