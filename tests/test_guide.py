"""In environments of their own: dqlab's wheel; the example package; every command of docs/plugins.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest
from conftest import ROOT, TINY, isolated

from dqlab import __version__

GUIDE = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.M | re.S)
KINDS = {"algorithm": "crr", "critic": "soft_min", "denoiser": "film", "noise_schedule": "sigmoid", "selection": "cwp"}

MISSING = {"pip", "setuptools"} - {item.metadata["Name"] for item in distributions()}  # to look for pip as a module
needs_pip = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} missing here")  # switches setuptools' distutils off

Shell = Callable[[str], str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs bash in an empty folder, with a virtual environment that sees this one's packages and this checkout."""
    run = make_environment(tmp_path, ROOT)
    script = tmp_path / "environment" / "bin" / "dqlab"
    script.write_text(f'#!/bin/sh\nexec "{script.with_name("python")}" -m dqlab.cli "$@"\n')
    script.chmod(0o755)
    return run


def make_environment(tmp_path: Path, *seen: Path) -> Shell:
    """A virtual environment that sees this one's packages, and of this checkout nothing but what is named."""
    folder = tmp_path / "environment"
    done = subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no virtual environment: {done.stderr}")
    python = folder / "bin" / "python"
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    packages = [path for path in sys.path if path.endswith("-packages")]
    (Path(own) / "parent.pth").write_text("\n".join(map(str, [*seen, *packages])) + "\n")
    for name in ("pip", "pytest"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {name} "$@"\n')
        script.chmod(0o755)
    offline = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_QUIET": "1"}
    env = isolated(tmp_path) | offline | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    (tmp_path / "work").mkdir()

    def run(script: str) -> str:
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def finished(run: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads((run / "run.json").read_text())
    assert facts["state"] == "finished"
    assert {path.name for path in run.glob("seed-*")} == {"seed-0", "seed-1"}
    return facts


@needs_pip
def test_the_example_is_installed_listed_checked_trained_and_tested(shell: Shell, tmp_path: Path) -> None:
    left = shutil.ignore_patterns("*.egg-info", "build", "__pycache__", ".*")
    example = shutil.copytree(ROOT / "examples" / "dqlab-plugin", tmp_path / "work" / "example", ignore=left)
    shell("pip install --no-deps ./example")
    parts = [part for part in json.loads(shell("dqlab list --json")) if part["package"] == "dqlab_plugin"]
    assert {part["kind"]: part["name"] for part in parts} == {k: f"dqlab_plugin_{v}" for k, v in KINDS.items()}
    assert all(part["docstring"] and part["source"] and part["gin_example"] for part in parts)
    assert shell("dqlab check dqlab-plugin").splitlines() == [f"{k} 'dqlab_plugin_{v}': ok" for k, v in KINDS.items()]
    assert "4 passed" in shell("pytest example")
    shell("dqlab train --gin example/try.gin --seeds 0 1 -q --out run --set Training.execution=compile")
    assert finished(tmp_path / "work" / "run")["execution"] == "compile"
    assert (example / "try.gin").is_file()


@needs_pip
def test_the_guide_works_as_written(shell: Shell, tmp_path: Path) -> None:
    """Python blocks are written to the path that they begin with, bash blocks run, text blocks are in what they say."""
    said = ""
    blocks = BLOCK.findall(GUIDE.read_text())
    assert {language for language, _ in blocks} == {"bash", "python", "text"}
    for language, text in blocks:
        if language == "python":
            path, code = text.removeprefix("# ").split("\n", 1)
            (tmp_path / "work" / path).write_text(code)
        elif language == "bash":
            said = shell(text)
        else:
            for line in text.splitlines():
                pattern = re.escape(line).replace(re.escape("..."), ".*")
                assert re.search(pattern, said), f"{line!r} is not in:\n{said}"
    compiled = finished(tmp_path / "work" / "runs" / "compiled")
    assert compiled["execution"] == "compile"
    assert "mylab_geometric.last = 0.6" in (tmp_path / "work" / "runs" / "geometric" / "config.gin").read_text()


@needs_pip
def test_a_wheel_from_the_source_archive_is_all_that_a_user_needs(tmp_path: Path) -> None:
    """Built, installed without the checkout in sight, and used in an empty folder."""
    shell = make_environment(tmp_path)
    shell(f"python -m build --no-isolation --outdir {tmp_path}/dist {ROOT}")
    (wheel,), (archive,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"mkdocs.yml", "CITATION.cff", "docs/index.md", "tests/conftest.py", "examples/diffusion_ql.py"} <= names
    shell(f"pip install --ignore-installed {wheel}")
    place = shell("python -c 'import dqlab; print(dqlab.__file__)'")
    assert place.startswith(str(tmp_path / "environment"))
    assert shell("dqlab --version").strip() == f"dqlab {__version__}"
    shell(f"dqlab train --gin gin/quickstart.gin --steps 10 -q --out run --set {shlex.join(TINY)}")
    assert json.loads((tmp_path / "work" / "run" / "run.json").read_text())["state"] == "finished"


def test_the_example_shows_no_more_than_it_should() -> None:
    """A schedule of ten lines, an algorithm of two hundred."""
    source = ROOT / "examples" / "dqlab-plugin" / "src" / "dqlab_plugin"
    function = (source / "schedule.py").read_text().split("@noise_schedules", 1)[1]
    assert len(function.splitlines()) <= 10
    assert len((source / "algorithm.py").read_text().splitlines()) <= 200
