"""What training stands on: packages, PyTorch and its devices, a compiler, memory, disks."""

from __future__ import annotations

import json
import os
import platform
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from dqlab import __version__
from dqlab.data.sources import cache_folder
from dqlab.envs.tasks import D4RL
from dqlab.errors import PACKAGE
from dqlab.machine import attempt_command, available_disk, available_memory, cores, run_isolated
from dqlab.tools.doctor.examination import (
    PROGRAM_SECONDS,
    DoctorFinding,
    State,
    register_check,
    requirements_of,
    unmet_requirements,
)
from dqlab.training.execution.program import cpp_compiler, missing_for_triton

GROUP, RECORDS = "Training", "Data and records"
GIB = 2**30
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


@register_check(GROUP, "packages", needed=True)
def packages() -> DoctorFinding:
    """The interpreter, which dqlab it runs, and what pyproject.toml requires."""
    here = f"Python {platform.python_version()}; dqlab {__version__} in {PACKAGE}"
    try:
        trouble = unmet_requirements(requirements_of())
    except PackageNotFoundError:
        return DoctorFinding(State.WARNING, f"{here}: a folder, not installed", "pip install -e .")
    if not trouble:
        return DoctorFinding(State.OK, f"{here}; all {len(requirements_of())} packages that it requires")
    state = State.BROKEN if any("not installed" in text for text in trouble) else State.WARNING
    return DoctorFinding(state, f"{here}; {', '.join(trouble)}", "pip install dqlab brings the right ones")


@register_check(GROUP, "PyTorch", needed=True)
def pytorch() -> list[DoctorFinding]:
    """Imported, and used on every device."""
    tried = run_isolated(TORCH, timeout=PROGRAM_SECONDS)
    if not tried.fine:
        return [DoctorFinding(State.BROKEN, tried.trouble, "pip install --force-reinstall torch")]
    facts = json.loads(tried.output.splitlines()[-1])
    build = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs"
    found = [DoctorFinding(State.OK, f"{facts['version']}, {build}"), _device(facts)]
    if facts["devices"] and (lacking := missing_for_triton()):
        text = f"compiling for a GPU needs {lacking}: without it updates are recorded, not compiled"
        fix = "pip install triton; apt-get install gcc python3-dev"
        found.append(DoctorFinding(State.MISSING, text, fix, "GPU compiler"))
    return found


def _device(facts: dict[str, Any]) -> DoctorFinding:
    names = [
        f"{device['name']} ({device['free'] / GIB:.0f} of {device['total'] / GIB:.0f} GiB free, "
        f"compute capability {device['capability']})"
        for device in facts["devices"]
    ]
    state, fix = State.OK, ""
    if names:
        text = f"{len(names)} x CUDA: {'; '.join(dict.fromkeys(names))}"
    elif not Path("/proc/driver/nvidia/version").exists():
        text = "CPU; there is no NVIDIA driver"
    elif not facts["cuda"]:
        state, text, fix = State.WARNING, "CPU, though there is an NVIDIA driver", INSTALL_CUDA
    else:
        state, text = State.WARNING, "CPU: PyTorch finds no device of the NVIDIA driver"
        fix = "see nvidia-smi and $CUDA_VISIBLE_DEVICES; a driver too old for this build?"
    return DoctorFinding(state, text, fix, "device")


@register_check(GROUP, "compiler")
def toolchain() -> DoctorFinding:
    """Compiles what Inductor's programs include."""
    fix = "apt-get install g++ python3-dev"
    found = cpp_compiler()
    if not found:
        return DoctorFinding(State.MISSING, "no g++, clang++ or $CXX: on a CPU updates run uncompiled, slower", fix)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tried.cpp").write_text(SOURCE)
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}"]
        command = [found, *options, f"{folder}/tried.cpp", "-o", f"{folder}/tried.so"]
        tried = attempt_command(command, timeout=PROGRAM_SECONDS)
    if tried.fine:
        return DoctorFinding(State.OK, f"{found} compiles with OpenMP and Python.h")
    return DoctorFinding(State.BROKEN, f"{found} fails ({tried.trouble}): Training.execution='eager' does without", fix)


@register_check(GROUP, "processor")
def processor() -> DoctorFinding:
    """Cores, how busy they are, and memory."""
    usable, load, threads = cores(), os.getloadavg()[0], os.environ.get("OMP_NUM_THREADS", "")
    words = [f"{usable} cores", f"load {load:.1f}", *([f"OMP_NUM_THREADS={threads}"] if threads else [])]
    troubles = ["others are computing: updates will be slow"] if load > 1.5 * usable else []
    if threads.isdigit() and int(threads) > usable:
        troubles.append(f"OMP_NUM_THREADS is above the {usable} cores: unset it")
    free, total = available_memory() / GIB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    words.append(f"{free:.1f} of {total:.1f} GiB memory free")
    troubles += ["less than 1 GiB of memory is free"] if free < 1 else []
    return DoctorFinding(State.WARNING if troubles else State.OK, ", ".join(words), "; ".join(troubles))


LITTLE, TOO_LITTLE = 2.0, 0.2
"""GiB: a run's checkpoints, and a dataset, take some hundred MiB."""


@register_check(RECORDS, "runs", needed=True)
def runs() -> DoctorFinding:
    """Whether runs can be written here."""
    return find_space(Path("runs"), "runs are written here by default: cd elsewhere, or use --out")


def find_space(folder: Path, otherwise: str) -> DoctorFinding:
    """Whether a folder, or what there is above it, can be written, and how much space it has."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return DoctorFinding(State.BROKEN, f"{there} cannot be written ({error.strerror})", otherwise)
    free = available_disk(folder) / GIB
    state = State.OK if free > LITTLE else State.WARNING if free > TOO_LITTLE else State.BROKEN
    fix = "" if state is State.OK else f"free some space; {otherwise}"
    return DoctorFinding(state, f"{folder.absolute()} can be written; {free:.1f} GiB free", fix)


@register_check(RECORDS, "D4RL cache", needed=True)
def d4rl_cache() -> DoctorFinding:
    """D4RL's files that are there, and whether others can come."""
    folder, fix = cache_folder(), "set D4RL_DATASET_DIR to a folder that you can read and write"
    try:
        there = {path.name for path in folder.iterdir()} if os.path.lexists(folder) else set()
    except OSError as error:
        return DoctorFinding(State.BROKEN, f"{folder} cannot be read ({error.strerror})", fix)
    place = find_space(folder, fix)
    if place.state is not State.OK:
        return DoctorFinding(State.WARNING if there else place.state, place.text, place.fix)
    names = [task for task, (_, file, _) in D4RL["tasks"].items() if Path(file).name in there]
    some = (
        f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else " (dqlab train fetches its own)"
    )
    return DoctorFinding(State.OK, f"{folder}: {len(names)} of {len(D4RL['tasks'])} files{some}")
