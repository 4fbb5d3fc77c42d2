"""Python, packages, PyTorch, the compiler, threads: what updates are computed with."""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from dqlab import __version__
from dqlab.errors import PACKAGE
from dqlab.machine import attempt_command, cores, run_isolated
from dqlab.tools.doctor.examination import DoctorFinding, State, register_check
from dqlab.tools.doctor.packages import requirements_of, unmet_requirements
from dqlab.training.execution.compiled import cpp_compiler, missing_for_triton

GROUP = "Training"
TORCH_SECONDS = 12.0
COMPILE_SECONDS = 8.0
OLDEST = (3, 10)
INSTALL_CUDA = "install a CUDA build of PyTorch (pytorch.org/get-started)"
TORCH = """
import json, torch
assert torch.ones(3) @ torch.ones(3) == 3
devices = []
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    about = torch.cuda.get_device_properties(index)
    assert torch.ones(3, device=f"cuda:{index}").sum().item() == 3, "a sum on the GPU is wrong"
    free, total = torch.cuda.mem_get_info(index)
    devices.append({"name": about.name, "capability": f"{about.major}.{about.minor}", "free": free, "total": total})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "", "devices": devices}))
"""
SOURCE = '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'


@register_check(GROUP, "Python", needed=True)
def python() -> Iterator[DoctorFinding]:
    """The interpreter, and which dqlab it runs."""
    text = f"{platform.python_version()}; dqlab {__version__} in {PACKAGE}"
    fine = sys.version_info >= OLDEST
    fix = "" if fine else f"dqlab needs Python {OLDEST[0]}.{OLDEST[1]} or later"
    yield DoctorFinding("Python", State.OK if fine else State.BROKEN, text, fix, needed=True)


@register_check(GROUP, "packages", needed=True)
def packages() -> Iterator[DoctorFinding]:
    """What pyproject.toml requires."""
    try:
        requirements = requirements_of()
    except PackageNotFoundError:
        yield DoctorFinding("packages", State.WARNING, "dqlab runs from a folder, not installed", "pip install -e .")
        return
    trouble = unmet_requirements(requirements)
    if not trouble:
        yield DoctorFinding("packages", State.OK, f"all {len(requirements)} that dqlab requires")
        return
    lacking = any("not installed" in text for text in trouble)
    state = State.BROKEN if lacking else State.WARNING
    yield DoctorFinding("packages", state, ", ".join(trouble), "pip install dqlab brings the right ones", needed=True)


@register_check(GROUP, "PyTorch", needed=True)
def pytorch() -> Iterator[DoctorFinding]:
    """Imported, and used on every device."""
    tried = run_isolated(TORCH, timeout=TORCH_SECONDS)
    if not tried.fine:
        yield DoctorFinding("PyTorch", State.BROKEN, tried.trouble, "pip install --force-reinstall torch", needed=True)
        return
    facts = json.loads(tried.output.splitlines()[-1])
    build = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs"
    yield DoctorFinding("PyTorch", State.OK, f"{facts['version']}, {build}", needed=True)
    yield _device(facts)
    if facts["devices"] and (lacking := missing_for_triton()):
        text = f"compiling for a GPU needs {lacking}: without it updates are recorded, not compiled"
        yield DoctorFinding("GPU compiler", State.MISSING, text, "pip install triton; apt-get install gcc python3-dev")


def _device(facts: dict[str, Any]) -> DoctorFinding:
    names = [
        f"{device['name']} ({device['free'] / 2**30:.0f} of {device['total'] / 2**30:.0f} GiB free, "
        f"compute capability {device['capability']})"
        for device in facts["devices"]
    ]
    if names:
        return DoctorFinding("device", State.OK, f"{len(names)} x CUDA: {'; '.join(dict.fromkeys(names))}")
    if not Path("/proc/driver/nvidia/version").exists():
        return DoctorFinding("device", State.OK, "CPU; there is no NVIDIA driver")
    if not facts["cuda"]:
        return DoctorFinding("device", State.WARNING, "CPU, though there is an NVIDIA driver", INSTALL_CUDA)
    fix = "see nvidia-smi and $CUDA_VISIBLE_DEVICES; a driver too old for this build?"
    return DoctorFinding("device", State.WARNING, "CPU: PyTorch finds no device of the NVIDIA driver", fix)


@register_check(GROUP, "compiler")
def toolchain() -> Iterator[DoctorFinding]:
    """Compiles what Inductor's programs include."""
    fix = "apt-get install g++ python3-dev"
    found = cpp_compiler()
    if not found:
        text = "no g++, clang++ or $CXX: on a CPU updates run uncompiled, slower"
        yield DoctorFinding("compiler", State.MISSING, text, fix)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tried.cpp").write_text(SOURCE)
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}"]
        command = [found, *options, f"{folder}/tried.cpp", "-o", f"{folder}/tried.so"]
        tried = attempt_command(command, timeout=COMPILE_SECONDS)
    if tried.fine:
        yield DoctorFinding("compiler", State.OK, f"{found} compiles with OpenMP and Python.h")
    else:
        text = f"{found} fails ({tried.trouble}): Training.execution='eager' does without"
        yield DoctorFinding("compiler", State.BROKEN, text, fix)


@register_check(GROUP, "processor")
def processor() -> Iterator[DoctorFinding]:
    """Cores, how busy they are, and memory."""
    usable, load = cores(), os.getloadavg()[0]
    threads = os.environ.get("OMP_NUM_THREADS", "")
    words = [f"{usable} cores", f"load {load:.1f}"]
    words += [f"OMP_NUM_THREADS={threads}"] if threads else []
    memory = _memory()
    words += [f"{memory['MemAvailable']:.1f} of {memory['MemTotal']:.1f} GiB memory free"] if memory else []
    troubles = []
    if load > 1.5 * usable:
        troubles.append("others are computing: updates will be slow")
    if threads.isdigit() and int(threads) > usable:
        troubles.append(f"OMP_NUM_THREADS is above the {usable} cores: unset it")
    if memory and memory["MemAvailable"] < 1:
        troubles.append("less than 1 GiB of memory is free")
    yield DoctorFinding("processor", State.WARNING if troubles else State.OK, ", ".join(words), "; ".join(troubles))


def _memory() -> dict[str, float]:
    """GiB, by Linux' names."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.endswith("kB")}
