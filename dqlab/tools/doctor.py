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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.table import Table
from rich.text import Text

from dqlab import __version__
from dqlab.data.download import cache_folder
from dqlab.envs.physics import legacy_inertia
from dqlab.envs.tasks import D4RL, tasks
from dqlab.errors import PACKAGE, masked
from dqlab.machine import attempt_command, package_version, run_isolated
from dqlab.printing import Console
from dqlab.runs.video import GL_BACKENDS, VARIABLE, gl_trouble
from dqlab.tracking.mlflow.client import store_path, tracking_uri
from dqlab.training.execution.program import cpp_compiler, missing_for_triton

OK, WARNING, MISSING, BROKEN = "ok", "warning", "missing", "broken"
"""It works; it works, but; it is not installed, and nothing has to be; it does not work."""
STYLES = {OK: "green", WARNING: "yellow", MISSING: "dim", BROKEN: "bold red"}
TRAINING, RECORDS, ENVIRONMENTS = "Training", "Data and records", "Environments"
PICTURES, MORE = "Pictures", "More"
GIB = 2**30
ABSENT = "not installed"
"""What `package_version` says of one."""
SECONDS = 50.0
"""After which a program that a check runs is given up: it may import PyTorch, which takes a second, or half a minute on
a busy machine or a slow file server."""


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the doctor's: a key of `STYLES`, what was found, and what to do, if anything.

    The check adds its name, the heading that it is shown under, and whether `dqlab train` cannot work without it.
    """

    state: str
    text: str
    fix: str = ""
    name: str = ""
    group: str = ""
    needed: bool = False

    @property
    def hinders(self) -> bool:
        """Whether `dqlab train` cannot work."""
        return self.needed and self.state in (MISSING, BROKEN)


Check = Callable[[], DoctorFinding]
CHECKS: list[Check] = []
"""In the order in which they are shown."""


def register_check(group: str, name: str, needed: bool = False) -> Callable[[Check], Check]:
    """Decorator: add a function to the checks; whatever it raises is a finding: a machine may be broken in any way."""

    def decorate(look: Check) -> Check:
        def finding() -> DoctorFinding:
            try:
                found = look()
            except Exception as error:
                found = DoctorFinding(BROKEN, f"{type(error).__name__}: {str(error)[:200]}")
            return replace(found, name=name, group=group, needed=needed)

        CHECKS.append(finding)
        return finding

    return decorate


def examine_machine() -> list[DoctorFinding]:
    """Run every check, all at a time."""
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        return list(pool.map(lambda check: check(), CHECKS))


def can_train(findings: Sequence[DoctorFinding]) -> bool:
    """Whether all that `dqlab train` needs works."""
    return not any(finding.hinders for finding in findings)


def print_findings(findings: Sequence[DoctorFinding]) -> None:
    """Print findings by group, each with its fix, and the verdict."""
    console = Console()
    for group in dict.fromkeys(finding.group for finding in findings):
        console.print(Text(group, style="bold"))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=max(map(len, STYLES)))
        table.add_column(width=max(len(finding.name) for finding in findings), no_wrap=True)
        table.add_column(overflow="fold")
        for finding in (each for each in findings if each.group == group):
            said = Text(finding.text).append(f" -> {finding.fix}" if finding.fix else "", style="cyan")
            table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, said)
        console.print(table)
    hindered = ", ".join(finding.name for finding in findings if finding.hinders)
    verdict = f"dqlab train cannot work here yet: {hindered}." if hindered else "All that dqlab train needs works here."
    console.print(Text(verdict, style="bold red" if hindered else "green"), soft_wrap=True)


def findings_as_json(findings: Sequence[DoctorFinding]) -> str:
    """Findings for programs."""
    return json.dumps({"can_train": can_train(findings), "findings": [asdict(each) for each in findings]}, indent=1)


def requirements_of(extra: str = "") -> list[Any]:
    """The requirements of dqlab, or those that an extra adds; a PackageNotFoundError where it is not installed."""
    from packaging.requirements import Requirement

    each = [Requirement(text) for text in metadata.requires("dqlab") or []]

    def holds(item: Any, name: str) -> bool:
        return item.marker is None or bool(item.marker.evaluate({"extra": name}))

    return [item for item in each if holds(item, extra) and not (extra and holds(item, ""))]


def unmet_requirements(requirements: Sequence[Any]) -> tuple[list[str], list[str]]:
    """What is not installed, and what is of another version than is asked for, in words."""
    found = [(item, package_version(item.name)) for item in requirements]
    lacking = [f"{item.name} is {version}" for item, version in found if version == ABSENT]
    outside = [
        f"{item.name} {version} (wanted {item.specifier})"
        for item, version in found
        if version != ABSENT and not item.specifier.contains(version, prereleases=True)
    ]
    return lacking, outside


@register_check(TRAINING, "packages", needed=True)
def packages() -> DoctorFinding:
    """The interpreter, which dqlab it runs, and what pyproject.toml requires."""
    here = f"Python {platform.python_version()}; dqlab {__version__} in {PACKAGE}"
    try:
        requirements = requirements_of()
    except metadata.PackageNotFoundError:
        return DoctorFinding(WARNING, f"{here}: a folder, not installed", "pip install -e .")
    lacking, outside = unmet_requirements(requirements)
    if not lacking + outside:
        return DoctorFinding(OK, f"{here}; all {len(requirements)} packages that it requires")
    text = f"{here}; {', '.join(lacking + outside)}"
    return DoctorFinding(BROKEN if lacking else WARNING, text, "pip install dqlab brings the right ones")


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


@register_check(TRAINING, "PyTorch", needed=True)
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
    names = [
        f"{device['name']} ({device['free'] / GIB:.0f} of {device['total'] / GIB:.0f} GiB free, "
        f"compute capability {device['capability']})"
        for device in facts["devices"]
    ]
    state, fix = OK, ""
    if names:
        text = f"{len(names)} x CUDA: {'; '.join(dict.fromkeys(names))}"
    elif not Path("/proc/driver/nvidia/version").exists():
        text = "CPU; there is no NVIDIA driver"
    elif not facts["cuda"]:
        state, text = WARNING, "CPU, though there is an NVIDIA driver"
        fix = "install a CUDA build of PyTorch (pytorch.org/get-started)"
    else:
        state, text = WARNING, "CPU: PyTorch finds no device of the NVIDIA driver"
        fix = "see nvidia-smi and $CUDA_VISIBLE_DEVICES; a driver too old for this build?"
    return DoctorFinding(state, f"{build}; {text}", fix)


INCLUDES = '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'


@register_check(TRAINING, "compiler")
def toolchain() -> DoctorFinding:
    """Compiles what Inductor's programs include."""
    fix = "apt-get install g++ python3-dev"
    found = cpp_compiler()
    if not found:
        return DoctorFinding(MISSING, "no g++, clang++ or $CXX: on a CPU updates run uncompiled, slower", fix)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tried.cpp").write_text(INCLUDES)
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}"]
        command = [found, *options, f"{folder}/tried.cpp", "-o", f"{folder}/tried.so"]
        tried = attempt_command(command, timeout=SECONDS)
    if not tried.trouble:
        return DoctorFinding(OK, f"{found} compiles with OpenMP and Python.h")
    return DoctorFinding(BROKEN, f"{found} fails ({tried.trouble}): Training.execution='eager' does without", fix)


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
        return DoctorFinding(BROKEN, f"{there} cannot be written ({error.strerror})", otherwise)
    free = shutil.disk_usage(there).free / GIB
    text = f"{folder.absolute()} can be written; {free:.1f} GiB free"
    enough = free > 1.0  # a run's checkpoints, and a dataset, take some hundred MiB
    return DoctorFinding(OK, text) if enough else DoctorFinding(WARNING, text, "free some space")


@register_check(RECORDS, "D4RL cache", needed=True)
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


SEARCH = """
import sys
from dqlab.tracking.mlflow.client import mlflow_client
mlflow_client(sys.argv[1]).search_experiments(max_results=1)
"""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@register_check(RECORDS, "MLflow")
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
    trouble = run_isolated(SEARCH, uri, timeout=SECONDS, env=IMPATIENT).trouble.replace(password or "\0", "***")
    return DoctorFinding(BROKEN if trouble else OK, masked(f"{uri} {trouble or 'answers'}"), fix * bool(trouble))


EXACT = 1e-9
REPLAY = """
import warnings
warnings.simplefilter("ignore")
from dqlab.tools.doctor import largest_error
print(*largest_error())
"""


@register_check(ENVIRONMENTS, "D4RL physics", needed=True)
def physics() -> DoctorFinding:
    """Steps of a D4RL environment, repeated."""
    tried = run_isolated(REPLAY, timeout=SECONDS)
    wanted = next(f"{item.name}{item.specifier}" for item in requirements_of() if item.name == "mujoco")
    if tried.trouble:  # MuJoCo cannot be imported where $MUJOCO_GL names what is not there
        fix = "unset MUJOCO_GL, or " * bool(os.environ.get(VARIABLE))
        fix += f"pip install --force-reinstall '{wanted}'"
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


@register_check(PICTURES, "OpenGL")
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
        return DoctorFinding(MISSING if lacking else WARNING, text, f"pip install 'dqlab[{name}]'")
    versions = ", ".join(f"{item.name} {package_version(item.name)}" for item in requirements)
    return DoctorFinding(OK, f"{versions}: {purpose}")


EXTRAS = (
    (RECORDS, "Minari", "minari", "Minari's data sets"),
    (ENVIRONMENTS, "Adroit, kitchen", "robotics", "their environments"),
    (ENVIRONMENTS, "OGBench", "ogbench", "its tasks"),
    (PICTURES, "ffmpeg", "video", ".mp4 videos; without it they are GIFs"),
    (MORE, "Ray", "ray", "grids on a cluster"),
    (MORE, "SLURM", "slurm", "grids on SLURM"),
    (MORE, "collecting", "collect", "dqlab collect"),
)
for _group, _name, _extra, _purpose in EXTRAS:
    register_check(_group, _name)(partial(find_extra, _extra, _purpose))
