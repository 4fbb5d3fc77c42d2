"""Without a GPU: the code that PyTorch's compiler writes for an NVIDIA H200, its launches counted.

    python benchmarks/launches.py                          # an update of Diffusion-QL, alone and in a pack of 8
    python benchmarks/launches.py td3_bc --replicas 1 16 --kernels

Needs a CUDA build of PyTorch (`pip install torch`, some gigabytes, into an environment of its own, with gin-config) and
a C compiler. `--kernels` compiles every Triton kernel to machine code, too. PyTorch is told that there is a card, and a
driver without one is loaded; tensors have shapes only. So it finds out what would be launched, not how long it takes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

H200 = SimpleNamespace(
    name="NVIDIA H200",
    type="cuda",
    index=0,
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=60 * 2**20,
    total_memory=150 * 10**9,
    gcnArchName="",
)
RUNTIME = """
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaDeviceGetPCIBusId(char *id, int length, int device) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 0; return 0; }
"""
"""What of CUDA's runtime and driver is really called; every other function of the driver returns success."""
MARK = "DQLAB_NO_DRIVER"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # dqlab need not be installed there


def with_a_driver() -> None:
    """Run this program anew, with a driver that has a device but does nothing."""
    folder = Path(tempfile.mkdtemp())
    library, source = folder / "libcuda.so.1", folder / "driver.c"
    own = set(re.findall(r"int (\w+)\(", RUNTIME))
    stubs = (f"int {name}(void) {{ return 0; }}" for name in sorted(_driver_names() - own))
    source.write_text("\n".join([RUNTIME, *stubs]))
    command = ["cc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    paths = f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    os.environ |= {MARK: "1", "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": paths}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def _driver_names() -> set[str]:
    """The functions of CUDA's driver that PyTorch and Triton ask for."""
    places = [_folder("torch") / "lib" / "libtorch_cuda.so", _folder("torch") / "lib" / "libc10_cuda.so"]
    places += (_folder("triton") / "backends" / "nvidia").rglob("*.c")
    texts = [place.read_bytes() for place in places]
    return {
        name.decode() for text in texts for name in re.findall(rb"\b(cu[A-Z][a-z]+[A-Z]?[A-Za-z0-9_]{0,40})\b", text)
    }


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        print(
            f"launches.py needs a CUDA build of PyTorch, and that of {sys.executable} is none, or missing (there is no "
            f"package '{package}'). In an environment of its own: pip install torch gin-config."
        )
        sys.exit(2)
    return Path(next(iter(spec.submodule_search_locations)))


class NoGuard:
    """Choosing a device does nothing."""

    def __init__(self, *_: Any) -> None: ...
    def __enter__(self) -> NoGuard:
        return self

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def pretended() -> Iterator[dict[str, str]]:
    """PyTorch takes an H200 for granted; gives the sources of Triton's kernels, by name, as they are written."""
    import torch
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.fx_passes import fuse_attention, misc_patterns, pad_mm
    from torch._subclasses import fake_tensor
    from triton.backends.compiler import GPUTarget

    def give(value: Any) -> Any:
        return lambda *_, **__: value

    sources: dict[str, str] = {}

    def keep(_: AsyncCompile, name: str, source: str, device_str: str = "cuda") -> Any:
        sources[name] = source
        return SimpleNamespace(run=give(None))

    driver = SimpleNamespace(
        get_current_target=give(GPUTarget("cuda", 90, 32)),
        get_current_device=give(0),
        get_active_torch_device=give(torch.device("cuda", 0)),
    )
    card = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_properties": H200}
    of_torch = {**card, "get_device_capability": (9, 0), "_lazy_init": None, "is_initialized": True}
    of_torch |= {"synchronize": None, "manual_seed_all": None, "get_rng_state": torch.zeros(16, dtype=torch.uint8)}
    of_torch |= {"set_rng_state": None}
    interface = {**card, "get_compute_capability": 90, "get_raw_stream": 0, "synchronize": None}
    patches = [mock.patch.object(torch.cuda, name, give(value)) for name, value in of_torch.items()]
    patches += [mock.patch.object(CudaInterface, name, staticmethod(give(v))) for name, v in interface.items()]
    patches += [
        mock.patch.object(CudaInterface.Worker, "get_device_properties", staticmethod(give(H200))),
        mock.patch.object(CudaInterface, "device", NoGuard),
        mock.patch.object(torch.cuda, "device", NoGuard),
        mock.patch.object(torch.cuda, "_DeviceGuard", NoGuard),
        mock.patch.object(torch._C, "_cuda_getCurrentRawStream", give(0)),
        mock.patch.object(fake_tensor, "init_gpu_context", give(None)),
        mock.patch.object(fuse_attention, "_sfdp_init", give(None)),  # patterns are made with real tensors
        mock.patch.object(pad_mm, "_pad_mm_init", give(None)),  # the same: and dqlab's settings let it pad nothing
        mock.patch.object(misc_patterns, "_misc_patterns_init", give(None)),
        mock.patch.object(AsyncCompile, "triton", keep),
        mock.patch.object(AsyncCompile, "wait", give(None)),
    ]
    triton.runtime.driver.set_active(driver)
    for patch in patches:
        patch.start()
    yield sources  # until the program ends: some of it is asked for later


def written_for_a_card(program: Any, layouts: Any, options: dict[str, Any]) -> str:
    """The program's code, as the compiler writes it for tensors of a card."""
    import torch
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.graph import GraphLowering
    from torch._subclasses.fake_tensor import FakeTensorMode

    from dqlab.diffusion import process
    from dqlab.policies import diffusion
    from dqlab.training.execution import products
    from dqlab.training.execution.program import OPTIONS_ON_GPU, nested_tensors, trace_program, tree_map
    from dqlab.training.execution.torch_internals import known_inductor_options

    def card(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda:0")

    def table(values: Any, dtype: Any, device: Any) -> torch.Tensor:
        return torch.empty(len(values), dtype=dtype, device="cuda:0")

    codes: list[str] = []
    codegen = GraphLowering.codegen

    def kept(lowering: GraphLowering) -> Any:
        written = codegen(lowering)
        codes.append(written[0].value)
        return written

    products.onednn_pays()
    # Constants are folded with real tensors on the card, of which there is none.
    settings = {"compile_threads": 1, "force_disable_caches": True, "joint_graph_constant_folding": False}
    settings |= {**known_inductor_options(OPTIONS_ON_GPU), **options}
    constants = [mock.patch.object(module, "device_constants", table) for module in (process, diffusion)]
    patches = *constants, mock.patch.object(GraphLowering, "codegen", kept)
    with FakeTensorMode(allow_non_fake_inputs=True), patches[0], patches[1], patches[2], config.patch(settings):
        for layout in layouts:
            for path, buffer in list(layout.module.named_buffers()):
                owner, _, leaf = path.rpartition(".")
                setattr(layout.module.get_submodule(owner), leaf, card(buffer))
        tensors = tree_map(card, program.tensors)
        values = nested_tensors(tensors)

        def flat(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            rest = iter(given)
            result = program.function(tree_map(lambda _: next(rest), tensors))
            return tuple(nested_tensors(result)) if result is not None else ()

        graph = trace_program(flat, values)
        compile_fx(*with_constants_as_arguments(graph, values))
    return codes[0]


def with_constants_as_arguments(graph: Any, values: list[Any]) -> tuple[Any, list[Any]]:
    """The graph with its constants among the arguments: the compiler would look at their values, and they have none."""
    first = next(iter(graph.graph.nodes))
    constants = []
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        constants.append(getattr(graph, node.target))
        with graph.graph.inserting_before(first):
            argument = graph.graph.placeholder(f"constant_{len(constants)}")
        argument.meta["val"] = constants[-1]
        node.replace_all_uses_with(argument)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph, [*constants, *values]


def launches(code: str) -> Counter[str]:
    """What the code launches: kernels of its own, products of the library; and operations, of a launch or more each."""
    own = re.findall(r"^\s*triton_\w+\.run\(", code, re.MULTILINE)
    library = re.findall(r"^\s*extern_kernels\.(\w+)\(", code, re.MULTILINE)
    others = re.findall(r"^\s*(?:\w+ = )?torch\.ops\.\w+\.[\w.]+\(", code, re.MULTILINE)
    return Counter({"own kernels": len(own), "products": len(library), "other operations": len(others)})


def compiled_kernels(sources: dict[str, str]) -> int:
    """Compile every kernel to machine code, in the first of its configurations; returns how many there were."""
    from torch._inductor.async_compile import _load_triton_kernel_from_source

    for name, source in sources.items():
        kernel = _load_triton_kernel_from_source(name, source)
        kernel._precompile_config(kernel.configs[0])
    return len(sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", nargs="?", default="diffusion_ql")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 8], metavar="K")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--combo", action="store_true", help="with the compiler's combo kernels")
    parser.add_argument("--kernels", action="store_true", help="compile the kernels to machine code, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the code there")
    args = parser.parse_args()
    if MARK not in os.environ:
        with_a_driver()
    warnings.filterwarnings("ignore", message="TensorFloat32")
    from subjects import as_transitions, made_fields, new_mode, new_pack

    from dqlab.training.programs import Step

    with pretended() as sources:
        for replicas in args.replicas:
            pack = new_pack(replicas, "cpu", algorithm=args.algorithm)
            pack.width = replicas
            step = Step(pack, as_transitions(made_fields(5_000)), args.batch, new_mode("eager"))
            sources.clear()
            options = {"combo_kernels": True} if args.combo else {}
            (program,) = step._programs(max(pack.kinds(range(1000)), key=lambda kind: len(pack.updating_at(kind))))
            code = written_for_a_card(program, pack.layouts.values(), options)
            found = launches(code)
            text = ", ".join(f"{count} {name}" for name, count in found.items() if count)
            print(f"{args.algorithm}, K = {replicas}: {found.total()} launches an update: {text}")
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.algorithm}-{replicas}.py").write_text(code)
            if args.kernels:
                print(f"  {compiled_kernels(sources)} different kernels, compiled to machine code")


if __name__ == "__main__":
    main()
