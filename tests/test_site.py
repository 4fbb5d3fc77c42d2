"""The documentation: it builds without a dead link, its commands are commands, its tables say what gin files say.

And what else lies in the repository for people: hooks, the citation, the team's MLflow server.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gin
import numpy as np
import pytest
import yaml
from conftest import ROOT, TINY, isolated
from made_packs import write_undrawn
from mlflow.cli import cli

from dqlab import __version__
from dqlab.ablation import Grid
from dqlab.cli import build_parser
from dqlab.cli.parser import load_configuration
from dqlab.config.gin_files import load_gin
from dqlab.data import load_dataset
from dqlab.envs import tasks

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*DOCS.rglob("*.md"), *ROOT.glob("README*.md")))
HOWTO = [page for page in PAGES if page.startswith(("docs/howto/", "docs/tutorial", "README"))]
TABLES = [page for page in HOWTO if "/from-" in page]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:\.venv/bin/)?dqlab ((?!COMMAND)[\w-].*)$", re.MULTILINE)
PARAMETER = re.compile(r"`((?:[A-Z]|load_|expectile_)\w*)\.([a-z]\w*)(?: = [^`]+)?`")
NO_SETTINGS = {"Pack", "README"}
FOLLOWED = ("docs/tutorial.md", "docs/howto/own-data.md", "docs/howto/own-component.md")
SMALL = [binding for binding in TINY if not binding.startswith("load_dataset")]


def blocks_of(page: str, *languages: str) -> list[str]:
    return [text for _, language, text in BLOCK.findall((ROOT / page).read_text()) if language in languages]


def commands_of(page: str) -> list[str]:
    blocks = blocks_of(page, "", "bash")
    lines = [line for text in blocks for line in COMMAND.findall(re.sub(r"\\\n\s*", "", text))]
    return list(dict.fromkeys(re.split(r"\s+#\s|\s*>\s|\s+\|\s|;", line)[0] for line in lines))


def value_of(parameter: str) -> object:
    """What is bound to a gin parameter; its default where nothing is."""
    name, field = parameter.split(".")
    try:
        return gin.query_parameter(parameter)
    except ValueError:
        return inspect.signature(gin.get_configurable(name)).parameters[field].default


def rows_with_values(page: str) -> Iterator[tuple[str, object, object]]:
    """(name, value there, value in fact) of rows `theirs | their default | ours | value`, under a gin file's name."""
    for line in (ROOT / page).read_text().splitlines():
        if named := re.search(r"Values are those of `(gin/[\w/.-]+)`", line):
            gin.clear_config()
            load_gin([named[1]], [])
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[3].startswith("`"):
            for parameter in re.findall(r"`(\w+\.\w+)`", cells[2]):
                yield parameter, ast.literal_eval(cells[3].strip("`")), value_of(parameter)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = tmp_path / "site" / "reference"
    assert 'id="dqlab-data-verify"' in (pages / "commands.html").read_text()
    assert "Training.batch_size = 256" in re.sub("<.*?>", "", (pages / "settings.html").read_text())


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_pages_beside_the_site_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page) and page not in FOLLOWED])
def test_every_command_of_a_page_is_one(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are there, gin files that ship are found, and names that are set are known."""
    monkeypatch.chdir(ROOT)
    for command in commands_of(page):
        args = build_parser().parse_args(shlex.split(command))
        files = [*(getattr(args, "gin", None) or []), *filter(None, [getattr(args, "grid", None)])]
        if files and all(Path(file).exists() for file in files) and not args.plugin:
            args.gin = files
            load_configuration(args)


@pytest.mark.parametrize("page", TABLES)
def test_a_table_of_names_says_what_the_gin_file_says(page: str) -> None:
    rows = list(rows_with_values(page))
    assert len(rows) > 10
    assert not [row for row in rows if row[1] != row[2]]


@pytest.mark.parametrize("page", HOWTO)
def test_parameters_that_a_page_names_are_there(page: str) -> None:
    load_gin(["gin/quickstart.gin"], [])
    for name, field in sorted(set(PARAMETER.findall((ROOT / page).read_text()))):
        if name not in NO_SETTINGS:
            assert field in inspect.signature(gin.get_configurable(name)).parameters, f"{name}.{field}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "gin")])
def test_grids_of_a_page_are_grids(page: str, tmp_path: Path) -> None:
    for text in blocks_of(page, "gin"):
        (tmp_path / "grid.gin").write_text(text)
        load_gin([tmp_path / "grid.gin"])
        assert len(Grid().settings) > 1


def test_the_equations_stand_beside_the_code_that_runs() -> None:
    """Every block of Python is in the algorithm's one file, but for its indentation."""
    source = unindented((ROOT / "examples" / "diffusion_ql.py").read_text())
    blocks = blocks_of("docs/explanation/diffusion-ql.md", "python")
    assert len(blocks) > 5
    assert not [text for text in blocks if unindented(text) not in source]


def test_a_buffer_of_d3rlpy_becomes_a_dataset(tmp_path: Path) -> None:
    """One episode that ends, one that is cut, as d3rlpy 2 holds them; the last row of the latter is dropped."""
    made: dict[str, Any] = {}
    exec(blocks_of("docs/howto/from-d3rlpy.md", "python")[0], made)
    rng = np.random.default_rng(0)
    episodes = [
        SimpleNamespace(
            observations=rng.normal(size=(5, 17)),
            actions=rng.uniform(-1, 1, size=(5, 6)),
            rewards=np.ones((5, 1)),
            terminated=terminated,
        )
        for terminated in (True, False)
    ]
    made["to_npz"](SimpleNamespace(episodes=episodes), tmp_path / "mine.npz")
    fields = load_dataset(tasks.get("walker2d-medium-v2"), sources=(f"file:{tmp_path / 'mine.npz'}",)).fields
    assert fields.state.shape == (9, 17)
    assert fields.terminal.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_hooks_and_citation_are_whole() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = [line.replace("$(BIN)", ".venv/bin") for line in recipes("test", "") if "pytest" not in line]
    assert [hook["entry"] for hook in hooks] == checks
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_works_as_written(page: str, tmp_path: Path) -> None:
    """Python blocks are files, bash blocks run with small networks and budgets, text blocks are in what they say.

    What ends in a mistake is followed by the text that names it.
    """
    said, mistaken = "", ""
    for _, language, text in BLOCK.findall((ROOT / page).read_text()):
        if language == "python":
            name, code = text.removeprefix("# ").split("\n", 1)
            (tmp_path / name).write_text(code)
        elif language == "bash":
            assert not mistaken
            done = [run(line, tmp_path) for line in text.splitlines()]
            said = "".join(each.stdout + each.stderr for each in done)
            mistaken = "".join(each.stderr for each in done if each.returncode)
        elif language == "text":
            for line in text.splitlines():
                pattern = re.escape(line.strip()).replace(r"\.\.\.", ".*")
                assert re.search(pattern, said), f"{line!r} is not in:\n{said}"
            mistaken = ""
    assert not mistaken


def unindented(code: str) -> str:
    return re.sub(r"^ +", "", code, flags=re.MULTILINE)


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one line of a page; it may end with a mistake that dqlab names."""
    words = shlex.split(line)
    if words[0] == "make":
        (recipe,) = recipes(words[1])
        return run(recipe, folder)
    if words[0] == "export":
        return subprocess.CompletedProcess(words, 0, "", "")
    words = [found for word in words for found in sorted(glob(word, root_dir=folder)) or [word]]
    if words[:2] in (["dqlab", "train"], ["dqlab", "ablate"]) and "--dry-run" not in words:
        words += ["--steps", "20", "--set", *SMALL]
        words += ["Grid.pack=6", "Report.reps=100", *write_undrawn(folder)] if words[1] == "ablate" else []
    start = {"dqlab": [sys.executable, "-m", "dqlab"], "python": [sys.executable]}.get(words[0], [words[0]])
    env = isolated(folder) | {"PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run([*start, *words[1:]], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def recipes(target: str, commands: str = "$(BIN)/") -> list[str]:
    """The commands that `make TARGET` runs, without what they begin with."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return [line.strip().removeprefix(commands) for line in found[1].splitlines()]


def test_the_page_about_python_works_as_written(tmp_path: Path) -> None:
    """Its code runs as a script, one block after the other and each once, and prints what the page says."""
    sizes = (line.partition("=") for line in TINY)
    small = {name: int(value) for name, _, value in sizes if name.endswith(("_dim", "_candidates"))}
    code = "".join(blocks_of("docs/python.md", "python"))
    told = 'short["Tracking.mlflow"] = False\n'
    assert told in code
    code = code.replace(told, f"{told}short |= {small!r}\n").replace('"Report.reps": 1000', '"Report.reps": 100')
    (tmp_path / "page.py").write_text(f"print('begins')\n{code}")
    command, options = [sys.executable, "-m", "page"], {"cwd": tmp_path, "env": isolated(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    said = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    assert said.count("begins") == 1, "no process of the library runs its caller's script again"
    for shown in blocks_of("docs/python.md", "text"):
        pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
        assert re.search(pattern, said), f"{shown} is not in:\n{said}"


def test_the_composition_is_complete_and_has_no_password() -> None:
    """And MLflow knows the options of the server's command."""
    folder = ROOT / "deploy" / "mlflow"
    text = (folder / "compose.yaml").read_text()
    composition = yaml.safe_load(text)
    for service in composition["services"].values():
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert named <= set(composition["volumes"]), "data outlives its container"
    for name in ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_USERNAME", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"):
        assert f"{name}=" in (folder / ".env.example").read_text().splitlines()
        assert {use[:2] for use in re.findall(rf"\$\{{{name}(.*?)\}}", text)} == {":?"}, f"{name} has no default"
    program, door, *options = composition["services"]["mlflow"]["command"]
    known = {name for option in cli.commands[door].params for name in option.opts}
    assert (program, door, {option.partition("=")[0] for option in options} <= known) == ("mlflow", "server", True)
