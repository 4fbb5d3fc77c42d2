"""What is looked at: packages, PyTorch and its devices, disks and stores, physics, pictures, extras."""

from __future__ import annotations

import json
import os
import platform
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dqlab import __version__
from dqlab.data.sources import cache_folder
from dqlab.envs.physics import legacy_inertia
from dqlab.envs.rendering import GL_BACKENDS, VARIABLE
from dqlab.envs.tasks import D4RL, tasks
from dqlab.errors import PACKAGE, masked
from dqlab.machine import IsolatedOutcome, attempt_command, available_disk, run_isolated
from dqlab.tools.doctor.report import DoctorFinding, State, register_check
from dqlab.tracking.mlflow.client import store_path, tracking_uri
from dqlab.training.execution.program import cpp_compiler, missing_for_triton

TRAINING, RECORDS, ENVIRONMENTS = "Training", "Data and records", "Environments"
PICTURES, MORE = "Pictures", "More"
GIB = 2**30
SECONDS = 50.0
"""After which a program that a check runs is given up: it may import PyTorch, which takes a second, or half a minute on
a busy machine or a slow file server."""


def requirements_of(extra: str = "") -> list[Any]:
    """The requirements of dqlab, or those that an extra adds, as `packaging` reads them.

    Raises:
        PackageNotFoundError: dqlab runs from a folder and is not installed.
    """
    from packaging.requirements import Requirement

    each = [Requirement(text) for text in metadata.requires("dqlab") or []]

    def holds(item: Any, name: str) -> bool:
        return item.marker is None or bool(item.marker.evaluate({"extra": name}))

    return [item for item in each if holds(item, extra) and not (extra and holds(item, ""))]


def installed_version(name: str) -> str:
    """An installed version; empty for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def unmet_requirements(requirements: Sequence[Any]) -> list[str]:
    """What is missing or of another version than is asked for, in words."""
    found = [(item, installed_version(item.name)) for item in requirements]
    lacking = [f"{item.name} is not installed" for item, version in found if not version]
    outside = [
        f"{item.name} {version} (wanted {item.specifier})"
        for item, version in found
        if version and not item.specifier.contains(version, prereleases=True)
    ]
    return lacking + outside


@register_check(TRAINING, "packages", needed=True)
def packages() -> DoctorFinding:
    """The interpreter, which dqlab it runs, and what pyproject.toml requires."""
    here = f"Python {platform.python_version()}; dqlab {__version__} in {PACKAGE}"
    try:
        requirements = requirements_of()
    except metadata.PackageNotFoundError:
        return DoctorFinding(State.WARNING, f"{here}: a folder, not installed", "pip install -e .")
    trouble = unmet_requirements(requirements)
    if not trouble:
        return DoctorFinding(State.OK, f"{here}; all {len(requirements)} packages that it requires")
    state = State.BROKEN if any("not installed" in text for text in trouble) else State.WARNING
    return DoctorFinding(state, f"{here}; {', '.join(trouble)}", "pip install dqlab brings the right ones")


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


@cache
def _torch_outcome() -> IsolatedOutcome:
    return run_isolated(TORCH, timeout=SECONDS)


def _tried_torch() -> IsolatedOutcome:
    with _ONCE:  # two checks ask, at the same time
        return _torch_outcome()


_ONCE = Lock()


@register_check(TRAINING, "PyTorch", needed=True)
def pytorch() -> DoctorFinding:
    """Imported, and used on every device."""
    tried = _tried_torch()
    if not tried.fine:
        return DoctorFinding(State.BROKEN, tried.trouble, "pip install --force-reinstall torch")
    facts = json.loads(tried.output.splitlines()[-1])
    build = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs"
    return DoctorFinding(State.OK, f"{facts['version']}, {build}")


@register_check(TRAINING, "device")
def device() -> DoctorFinding:
    """What PyTorch computes on; and whether it can compile for it."""
    tried = _tried_torch()
    if not tried.fine:
        return DoctorFinding(State.MISSING, "not known without PyTorch")
    facts = json.loads(tried.output.splitlines()[-1])
    found = device_finding(facts)
    if facts["devices"] and (lacking := missing_for_triton()):
        text = f"{found.text}; compiling for it needs {lacking}: without it updates are recorded, not compiled"
        return DoctorFinding(State.WARNING, text, "pip install triton; apt-get install gcc python3-dev")
    return found


def device_finding(facts: dict[str, Any]) -> DoctorFinding:
    """The devices that PyTorch has; or why there is a driver, but no device."""
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
        state, text = State.WARNING, "CPU, though there is an NVIDIA driver"
        fix = "install a CUDA build of PyTorch (pytorch.org/get-started)"
    else:
        state, text = State.WARNING, "CPU: PyTorch finds no device of the NVIDIA driver"
        fix = "see nvidia-smi and $CUDA_VISIBLE_DEVICES; a driver too old for this build?"
    return DoctorFinding(state, text, fix)


INCLUDES = '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'


@register_check(TRAINING, "compiler")
def toolchain() -> DoctorFinding:
    """Compiles what Inductor's programs include."""
    fix = "apt-get install g++ python3-dev"
    found = cpp_compiler()
    if not found:
        return DoctorFinding(State.MISSING, "no g++, clang++ or $CXX: on a CPU updates run uncompiled, slower", fix)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tried.cpp").write_text(INCLUDES)
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}"]
        command = [found, *options, f"{folder}/tried.cpp", "-o", f"{folder}/tried.so"]
        tried = attempt_command(command, timeout=SECONDS)
    if tried.fine:
        return DoctorFinding(State.OK, f"{found} compiles with OpenMP and Python.h")
    return DoctorFinding(State.BROKEN, f"{found} fails ({tried.trouble}): Training.execution='eager' does without", fix)


LITTLE = 1.0
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
    text = f"{folder.absolute()} can be written; {free:.1f} GiB free"
    return DoctorFinding(State.OK, text) if free > LITTLE else DoctorFinding(State.WARNING, text, "free some space")


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
    names = [task for task, (_, file, *_) in D4RL["tasks"].items() if Path(file).name in there]
    some = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "dqlab train fetches its own"
    return DoctorFinding(State.OK, f"{folder}: {len(names)} of {len(D4RL['tasks'])} files ({some})")


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
        return DoctorFinding(State.BROKEN, f"{masked(uri)}: {error}", fix)
    trouble = run_isolated(SEARCH, uri, timeout=SECONDS, env=IMPATIENT).trouble.replace(password or "\0", "***")
    return DoctorFinding(
        State.BROKEN if trouble else State.OK, masked(f"{uri} {trouble or 'answers'}"), fix * bool(trouble)
    )


EXACT = 1e-9
REPLAY = """
import warnings
warnings.simplefilter("ignore")
from dqlab.tools.doctor.checks import largest_error
print(*largest_error())
"""
TASK = "walker2d-medium-v2"


@register_check(ENVIRONMENTS, "D4RL physics", needed=True)
def physics() -> DoctorFinding:
    """Steps of a D4RL environment, repeated."""
    tried = run_isolated(REPLAY, timeout=SECONDS)
    wanted = next(f"{item.name}{item.specifier}" for item in requirements_of() if item.name == "mujoco")
    if not tried.fine:
        fix = or_unset_gl(f"pip install --force-reinstall '{wanted}'")
        return DoctorFinding(State.BROKEN, f"no environment can be made: {tried.trouble}", fix)
    steps, error = tried.output.split()[-2:]
    text = (
        f"MuJoCo {installed_version('mujoco')} repeats {steps} steps of MuJoCo 2.1.0, largest error {float(error):.0e}"
    )
    if float(error) < EXACT:
        return DoctorFinding(State.OK, text)
    return DoctorFinding(State.BROKEN, f"{text}: scores would not be D4RL's", f"pip install '{wanted}'")


def or_unset_gl(fix: str) -> str:
    """MuJoCo cannot be imported where $MUJOCO_GL names what is not there."""
    return f"unset MUJOCO_GL, or {fix}" if os.environ.get("MUJOCO_GL") else fix


def largest_error(law: Any = legacy_inertia) -> tuple[int, float]:
    """How many recorded steps are repeated by a physics law, and the largest error of observations and rewards."""
    import gymnasium

    recorded = json.loads((files("dqlab.tools.doctor") / "walker2d.json").read_text())
    task = tasks.entries[TASK].item
    env = gymnasium.make(task.env_id, disable_env_checker=True).unwrapped
    law(env.model, task.body)
    env.reset(seed=0)
    env.set_state(np.array(recorded["qpos"]), np.array(recorded["qvel"]))
    worst = 0.0
    for action, *expected in zip(*(recorded[name] for name in ("actions", "observations", "rewards")), strict=True):
        got = env.step(np.array(action))[:2]
        worst = max(worst, *(float(np.abs(np.subtract(*pair)).max()) for pair in zip(got, expected, strict=True)))
    return len(recorded["actions"]), worst


@register_check(PICTURES, "OpenGL")
def opengl() -> DoctorFinding:
    """One picture, by the first way that draws it; or by $MUJOCO_GL's."""
    chosen = os.environ.get(VARIABLE, "").lower()
    tried = {way: way.draws() for way in GL_BACKENDS if chosen in ("", way.value)}
    drawn = [way.title for way, outcome in tried.items() if outcome.fine]
    by = f", which {VARIABLE} chooses" if chosen else ""
    if drawn:
        return DoctorFinding(State.OK, f"{' and '.join(drawn)} draw MuJoCo's pictures{by}")
    troubles = "; ".join(f"{way.title}: {outcome.trouble}" for way, outcome in tried.items())
    fix = "; or ".join(way.fix for way in tried) or f"unset {VARIABLE}"
    return DoctorFinding(State.BROKEN if chosen else State.MISSING, f"nothing draws ({troubles}){by}", fix)


def find_extra(name: str, purpose: str) -> DoctorFinding:
    """Whether what an extra installs is there, and what it is good for."""
    requirements = requirements_of(name)
    if not requirements:
        return DoctorFinding(State.MISSING, f"not for this Python; {purpose}")
    if trouble := unmet_requirements(requirements):
        installed = all(installed_version(item.name) for item in requirements)
        state = State.WARNING if installed else State.MISSING
        return DoctorFinding(state, f"{', '.join(trouble)}; {purpose}", f"pip install 'dqlab[{name}]'")
    versions = ", ".join(f"{item.name} {installed_version(item.name)}" for item in requirements)
    return DoctorFinding(State.OK, f"{versions}: {purpose}")


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
