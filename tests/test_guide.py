"""dqlab's wheel in an environment of its own, and there every command of docs/plugins.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest
from conftest import ROOT, isolated

from dqlab import __version__

GUIDE = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.M | re.S)
KINDS = {"algorithm": "crr", "critic": "soft_min", "denoiser": "film", "noise_schedule": "sigmoid", "selection": "cwp"}

MISSING = {"pip", "setuptools"} - {item.metadata["Name"] for item in distributions()}  # to look for pip as a module
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} missing here")  # switches setuptools' distutils off

Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs bash in an empty folder; its environment has the wheel, and this one's packages, but not this checkout."""
    folder = tmp_path_factory.mktemp("guide")
    command = [sys.executable, "-m", "venv", "--without-pip", folder / "environment"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no virtual environment: {done.stderr}")
    python = folder / "environment" / "bin" / "python"
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder / "environment"), "platbase": str(folder)})
    packages = [path for path in sys.path if path.endswith("-packages")]
    (Path(own) / "parent.pth").write_text("\n".join(packages) + "\n")
    for name in ("pip", "pytest"):
        script = python.with_name(name)
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {name} "$@"\n')
        script.chmod(0o755)
    offline = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_QUIET": "1"}
    env = isolated(folder) | offline | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    (folder / "work").mkdir()

    def run(script: str) -> str:
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=folder / "work", env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(f"python -m build --no-isolation --outdir ../dist {ROOT} && pip install --ignore-installed ../dist/*.whl")
    return run


def test_a_wheel_from_the_source_archive(shell: Shell) -> None:
    folder = Path(shell("pwd").strip()).parent
    (archive,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"mkdocs.yml", "CITATION.cff", "docs/index.md", "tests/conftest.py", "examples/diffusion_ql.py"} <= names
    assert shell("python -c 'import dqlab; print(dqlab.__file__)'").startswith(str(folder / "environment"))
    assert shell("dqlab --version").strip() == f"dqlab {__version__}"
    said = shell("python -c 'from dqlab.runs.load_policy import pretrained_policies; print(*pretrained_policies())'")
    assert said.split() == ["walker2d-like", "walker2d-mini"]


def test_the_guide_works_as_written(shell: Shell) -> None:
    """Python blocks are written to the path that they begin with, bash blocks run, text blocks are in what they say."""
    work, said = Path(shell("pwd").strip()), ""
    blocks = BLOCK.findall(GUIDE.read_text())
    assert {language for language, _ in blocks} == {"bash", "python", "text"}
    for language, text in blocks:
        if language == "python":
            path, code = text.removeprefix("# ").split("\n", 1)
            (work / path).write_text(code)
        elif language == "bash":
            said = shell(text)
        else:
            for line in text.splitlines():
                pattern = re.escape(line).replace(re.escape("..."), ".*")
                assert re.search(pattern, said), f"{line!r} is not in:\n{said}"
    parts = [part for part in json.loads((work / "components.json").read_text()) if part["package"] == "mylab"]
    assert {part["kind"]: part["name"] for part in parts} == {kind: f"mylab_{name}" for kind, name in KINDS.items()}
    facts = {name: json.loads((work / "runs" / name / "run.json").read_text()) for name in ("eager", "compiled")}
    assert [known["state"] for known in facts.values()] == ["finished"] * 2
    assert facts["compiled"]["execution"] == "compile"
    assert {path.name for path in (work / "runs" / "compiled").glob("seed-*")} == {"seed-0", "seed-1"}
    assert "mylab_geometric.last = 0.6" in (work / "runs" / "geometric" / "config.gin").read_text()
