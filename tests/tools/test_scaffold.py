"""`dqlab new-plugin`: the example package under another name, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import ROOT

from dqlab.cli import main
from dqlab.errors import ConfigError
from dqlab.tools.scaffold import render_package, write_plugin

EXAMPLE = ROOT / "examples" / "dqlab-plugin"


def test_the_example_is_what_new_plugin_writes() -> None:
    files = dict(render_package("dqlab-plugin"))
    assert len(files) == 11
    assert all((EXAMPLE / path).read_text() == text for path, text in files.items())


def test_another_name_is_everywhere(tmp_path: Path) -> None:
    said = write_plugin("my-lab", tmp_path / "here")
    assert said == f"{tmp_path / 'here'} is written. Next: pip install -e {tmp_path / 'here'} && dqlab check my-lab"
    written = {str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "my_lab.gin", "try.gin", "src/my_lab/critic.py"} <= written
    for name in written:
        text = (tmp_path / "here" / name).read_text()
        assert not re.search("qlab-plugin|qlab_plugin|qlabPlugin", text)
    assert 'my-lab = "my_lab"' in (tmp_path / "here" / "pyproject.toml").read_text()
    assert "class MyLabCRR(ActorCritic)" in (tmp_path / "here" / "src" / "my_lab" / "algorithm.py").read_text()
    assert oct((tmp_path / "here").stat().st_mode)[-3:] == "755"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


REFUSED = dict.fromkeys(("My-Lab", "1lab", "my--lab", "../lab", "class", ""), "is no name for a package")
REFUSED |= {name: f"Python knows a module '{name}' already" for name in ("dqlab", "torch", "sys")}
REFUSED["taken"] = "'taken' exists already: choose another --out"


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_refusal_is_one_line_and_writes_nothing(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert main(["new-plugin", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert os.listdir(tmp_path) == ["taken"]


def test_a_folder_in_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        write_plugin("mylab", tmp_path / "nowhere" / "mylab")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.name == "try.gin":
            raise OSError(28, "No space left on device")
        return written(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_plugin("mylab", tmp_path / "mylab")
    assert not list(tmp_path.iterdir())
