"""`dqlab doctor`: what works on this machine, and the fix for what does not. No check can end the others."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from dqlab import __version__
from dqlab.data.download import cache_folder
from dqlab.envs.physics import legacy_inertia
from dqlab.envs.tasks import D4RL, tasks
from dqlab.errors import PACKAGE, masked, pip_install
from dqlab.machine import attempt_command, package_version, run_isolated
from dqlab.printing import Console
from dqlab.runs.evaluate import GL_BACKENDS, VARIABLE, gl_trouble
from dqlab.tracking.mlflow.client import store_path, tracking_uri
from dqlab.training.execution.program import cpp_compiler, missing_for_triton

OK, WARNING, MISSING, BROKEN = "ok", "warning", "missing", "broken"
"""It works; it works, but; it is not installed, and nothing has to be; it does not work."""
STYLES = {OK: "green", WARNING: "yellow", MISSING: "dim", BROKEN: "bold red"}
SECONDS = 50.0
"""After which a program that a check runs is given up: on a busy machine importing PyTorch may take half a minute."""


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the doctor's: a key of `STYLES`, what was found, what to do, if anything; and the check's facts."""

    state: str
    text: str
    fix: str = ""
    name: str = ""
    group: str = ""
    needed: bool = False


def examine_machine() -> list[DoctorFinding]:
    """Run every check, all at a time; whatever one raises is a finding: a machine may be broken in any way."""

    def finding(group: str, name: str, needed: bool, look: Callable[[], DoctorFinding]) -> DoctorFinding:
        try:
            found = look()
        except Exception as error:
            found = DoctorFinding(BROKEN, f"{type(error).__name__}: {str(error)[:200]}")
        return replace(found, name=name, group=group, needed=needed)

    with ThreadPoolExecutor(len(CHECKS)) as pool:
        return list(pool.map(lambda check: finding(*check), CHECKS))


def report_machine(as_json: bool = False) -> bool:
    """Examine the machine and print the findings by group, each with its fix; whether `dqlab train` can work."""
    findings = examine_machine()
    hindered = ", ".join(each.name for each in findings if each.needed and each.state in (MISSING, BROKEN))
    if as_json:
        print(json.dumps({"can_train": not hindered, "findings": [asdict(each) for each in findings]}, indent=1))
        return not hindered
    console = Console()
    for group, found in groupby(findings, lambda finding: finding.group):
        console.print(Text(group, style="bold"))
        names = Column(width=max(len(finding.name) for finding in findings), no_wrap=True)
        table = Table.grid(Column(width=max(map(len, STYLES))), names, Column(overflow="fold"), padding=(0, 1))
        for finding in found:
            said = Text(finding.text).append(f" -> {finding.fix}" if finding.fix else "", style="cyan")
            table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, said)
        console.print(table)
    verdict = f"dqlab train cannot work here yet: {hindered}." if hindered else "All that dqlab train needs works here."
    console.print(Text(verdict, style="bold red" if hindered else "green"), soft_wrap=True)
    return not hindered


def requirements_of(extra: str = "") -> list[Any]:
    """The requirements of dqlab, or those that an extra adds; a PackageNotFoundError where it is not installed."""
    from packaging.requirements import Requirement

    each: list[Any] = [Requirement(text) for text in metadata.requires("dqlab") or []]
    needed = [item for item in each if item.marker is None or item.marker.evaluate({"extra": ""})]
    return [item for item in each if item not in needed and item.marker.evaluate({"extra": extra})] if extra else needed


def unmet_requirements(requirements: Sequence[Any]) -> tuple[list[str], list[str]]:
    """What is not installed, and what is of another version than is asked for, in words."""
    lacking, outside = [], []
    for item in requirements:
        version = package_version(item.name)
        if version == "not installed":
            lacking.append(f"{item.name} is {version}")
        elif not item.specifier.contains(version, prereleases=True):
            outside.append(f"{item.name} {version} (wanted {item.specifier})")
    return lacking, outside


def packages() -> DoctorFinding:
    """The interpreter, which dqlab it runs, and what pyproject.toml requires."""
    here = f"Python {platform.python_version()}; dqlab {__version__} in {PACKAGE}"
    try:
        requirements = requirements_of()
    except metadata.PackageNotFoundError:
        return DoctorFinding(WARNING, f"{here}: a folder, not installed", pip_install())
    lacking, outside = unmet_requirements(requirements)
    if not lacking + outside:
        return DoctorFinding(OK, f"{here}; all {len(requirements)} packages that it requires")
    fix = f"{pip_install()} brings the right ones"
    return DoctorFinding(BROKEN if lacking else WARNING, f"{here}; {', '.join(lacking + outside)}", fix)


TORCH = """
import json, torch
assert torch.ones(3) @ torch.ones(3) == 3
devices = []
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    about = torch.cuda.get_device_properties(index)
    assert torch.ones(3, device=f"cuda:{index}").sum().item() == 3, "a sum on the GPU is wrong"
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
    devices.append({"name": about.name, "capability": f"{about.major}.{about.minor}", "free": free, "total": total})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "", "devices": devices}))
"""


def pytorch() -> DoctorFinding:
    """Imported, and used on every device; and whether it can compile for a GPU."""
    tried = run_isolated(TORCH, timeout=SECONDS)
    if tried.trouble:
        return DoctorFinding(BROKEN, tried.trouble, "pip install --force-reinstall torch")
    facts = json.loads(tried.output.splitlines()[-1])
    found = device_finding(facts)
    if facts["devices"] and (lacking := missing_for_triton()):
        text = f"{found.text}; compiling for it needs {lacking}: without it updates are recorded, not compiled"
        return DoctorFinding(WARNING, text, "pip install triton; apt-get install gcc python3-dev")
    return found


def device_finding(facts: dict[str, Any]) -> DoctorFinding:
    """PyTorch's build and its devices; or why there is a driver, but no device."""
    build = f"{facts['version']}, built for {'CUDA ' + facts['cuda'] if facts['cuda'] else 'CPUs'}"
    shown = "{name} ({free:.0f} of {total:.0f} GiB free, compute capability {capability})"
    names = [shown.format(**device) for device in facts["devices"]]
    if names:
        return DoctorFinding(OK, f"{build}; {len(names)} x CUDA: {'; '.join(dict.fromkeys(names))}")
    if not Path("/proc/driver/nvidia/version").exists():
        return DoctorFinding(OK, f"{build}; CPU; there is no NVIDIA driver")
    look = "see nvidia-smi and $CUDA_VISIBLE_DEVICES; a driver too old for this build?"
    fix = look if facts["cuda"] else "install a CUDA build of PyTorch (pytorch.org/get-started)"
    return DoctorFinding(WARNING, f"{build}; CPU: PyTorch finds no device of the NVIDIA driver", fix)


def toolchain() -> DoctorFinding:
    """Compiles what Inductor's programs include."""
    fix = "apt-get install g++ python3-dev"
    if not (found := cpp_compiler()):
        return DoctorFinding(MISSING, "no g++, clang++ or $CXX: on a CPU updates run uncompiled, slower", fix)
    includes = '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tried.cpp").write_text(includes)
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}"]
        tried = attempt_command([found, *options, f"{folder}/tried.cpp", "-o", f"{folder}/tried.so"], timeout=SECONDS)
    if not tried.trouble:
        return DoctorFinding(OK, f"{found} compiles with OpenMP and Python.h")
    return DoctorFinding(BROKEN, f"{found} fails ({tried.trouble}): Training.execution='eager' does without", fix)


def find_space(folder: Path, fix: str) -> DoctorFinding:
    """Whether a folder, or what there is above it, can be written, and how much space it has."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return DoctorFinding(BROKEN, f"{there} cannot be written ({error.strerror})", fix)
    free = shutil.disk_usage(there).free / 2**30
    text = f"{folder.absolute()} can be written; {free:.1f} GiB free"
    # a run's checkpoints, and a dataset, take some hundred MiB
    return DoctorFinding(OK, text) if free > 1.0 else DoctorFinding(WARNING, text, "free some space")


def d4rl_cache() -> DoctorFinding:
    """D4RL's files that are there, and whether others can come."""
    folder, fix = cache_folder(), "set D4RL_DATASET_DIR to a folder that you can read and write"
    try:
        there = {path.name for path in folder.iterdir()} if os.path.lexists(folder) else set()
    except OSError as error:
        return DoctorFinding(BROKEN, f"{folder} cannot be read ({error.strerror})", fix)
    place = find_space(folder, fix)
    if place.state != OK:
        return DoctorFinding(WARNING if there else place.state, place.text, place.fix)
    count = sum(Path(file).name in there for _, file, *_ in D4RL["tasks"].values())
    return DoctorFinding(OK, f"{folder}: {count} of {len(D4RL['tasks'])} files; dqlab train fetches what it needs")


def mlflow() -> DoctorFinding:
    """The store that runs are recorded in: a server is asked for its experiments."""
    uri = tracking_uri(Path("runs") / "run")
    local = store_path(uri)
    fix = "training goes on without it, and `dqlab sync RUN` sends later; set MLFLOW_TRACKING_URI"
    if local is not None:
        place = find_space(local.parent, fix)
        return replace(place, text=f"{masked(uri)}: {place.text}")
    try:
        password = urlsplit(uri).password
    except ValueError as error:
        return DoctorFinding(BROKEN, f"{masked(uri)}: {error}", fix)
    impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    search = "import sys; from dqlab.tracking.mlflow import client; client.mlflow_client(sys.argv[1])"
    search += ".search_experiments(max_results=1)"
    trouble = run_isolated(search, uri, timeout=SECONDS, env=impatient).trouble.replace(password or "\0", "***")
    return DoctorFinding(BROKEN if trouble else OK, masked(f"{uri} {trouble or 'answers'}"), fix * bool(trouble))


EXACT = 1e-9


def physics() -> DoctorFinding:
    """Steps of a D4RL environment, repeated."""
    tried = run_isolated("from dqlab.tools import doctor; print(*doctor.largest_error())", timeout=SECONDS)
    wanted = next(f"{item.name}{item.specifier}" for item in requirements_of() if item.name == "mujoco")
    if tried.trouble:  # MuJoCo cannot be imported where $MUJOCO_GL names what is not there
        fix = "unset MUJOCO_GL, or " * bool(os.environ.get(VARIABLE)) + f"pip install --force-reinstall '{wanted}'"
        return DoctorFinding(BROKEN, f"no environment can be made: {tried.trouble}", fix)
    steps, error = tried.output.split()[-2:]
    text = f"MuJoCo {package_version('mujoco')} repeats {steps} steps of MuJoCo 2.1.0, largest error {float(error):.0e}"
    if float(error) < EXACT:
        return DoctorFinding(OK, text)
    return DoctorFinding(BROKEN, f"{text}: scores would not be D4RL's", f"pip install '{wanted}'")


def largest_error(law: Any = legacy_inertia) -> tuple[int, float]:
    """How many recorded steps are repeated by a physics law, and the largest error of observations and rewards."""
    import gymnasium

    recorded = json.loads((files("dqlab.tools") / "walker2d.json").read_text())
    task = tasks.get("walker2d-medium-v2")
    env = gymnasium.make(task.env_id, disable_env_checker=True).unwrapped
    law(env.model, task.body)
    env.reset(seed=0)
    env.set_state(np.array(recorded["qpos"]), np.array(recorded["qvel"]))
    errors = []
    for action, *expected in zip(*(recorded[name] for name in ("actions", "observations", "rewards")), strict=True):
        got = env.step(np.array(action))[:2]
        errors += [np.abs(np.subtract(*pair)).max() for pair in zip(got, expected, strict=True)]
    return len(recorded["actions"]), float(max(errors))


def opengl() -> DoctorFinding:
    """One picture, by the first way that draws it; or by $MUJOCO_GL's."""
    chosen = os.environ.get(VARIABLE, "").lower()
    tried = {backend: gl_trouble(backend) for backend in GL_BACKENDS if chosen in ("", backend.lower())}
    drawn = [backend for backend, trouble in tried.items() if not trouble]
    by = f", which {VARIABLE} chooses" if chosen else ""
    if drawn:
        return DoctorFinding(OK, f"{' and '.join(drawn)} draw MuJoCo's pictures{by}")
    troubles = "; ".join(f"{backend}: {trouble}" for backend, trouble in tried.items())
    fix = "; or ".join(GL_BACKENDS[backend] for backend in tried) or f"unset {VARIABLE}"
    return DoctorFinding(BROKEN if chosen else MISSING, f"nothing draws ({troubles}){by}", fix)


def find_extra(name: str, purpose: str) -> DoctorFinding:
    """Whether what an extra installs is there, and what it is good for."""
    requirements = requirements_of(name)
    if not requirements:
        return DoctorFinding(MISSING, f"not for this Python; {purpose}")
    lacking, outside = unmet_requirements(requirements)
    if lacking + outside:
        text = f"{', '.join(lacking + outside)}; {purpose}"
        return DoctorFinding(MISSING if lacking else WARNING, text, pip_install(name))
    versions = ", ".join(f"{item.name} {package_version(item.name)}" for item in requirements)
    return DoctorFinding(OK, f"{versions}: {purpose}")


CHECKS: Sequence[tuple[str, str, bool, Callable[[], DoctorFinding]]] = (
    ("Training", "packages", True, packages),
    ("Training", "PyTorch", True, pytorch),
    ("Training", "compiler", False, toolchain),
    ("Data and records", "runs", True, partial(find_space, Path("runs"), "cd elsewhere, or use --out")),
    ("Data and records", "D4RL cache", True, d4rl_cache),
    ("Data and records", "MLflow", False, mlflow),
    ("Data and records", "Minari", False, partial(find_extra, "minari", "Minari's data sets")),
    ("Environments", "D4RL physics", True, physics),
    ("Environments", "Adroit, kitchen", False, partial(find_extra, "robotics", "their environments")),
    ("Environments", "OGBench", False, partial(find_extra, "ogbench", "its tasks")),
    ("Pictures", "OpenGL", False, opengl),
    ("Pictures", "ffmpeg", False, partial(find_extra, "video", ".mp4 videos; without it they are GIFs")),
    ("More", "Ray", False, partial(find_extra, "ray", "grids on a cluster")),
    ("More", "SLURM", False, partial(find_extra, "slurm", "grids on SLURM")),
    ("More", "collecting", False, partial(find_extra, "collect", "dqlab collect by PPO")),
    ("More", "ONNX", False, partial(find_extra, "export", "models of dqlab export for other runtimes")),
)
"""Group, name, whether `dqlab train` needs it, and the check, in the order in which they are shown."""
