"""`dqlab new-plugin`: the example package under another name, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import ROOT, Run, refused

from dqlab.tools.scaffold import render_package, write_plugin


def test_the_example_is_what_new_plugin_writes() -> None:
    files = dict(render_package("dqlab-plugin"))
    assert len(files) == 11
    assert all((ROOT / "examples" / "dqlab-plugin" / path).read_text() == text for path, text in files.items())


def test_another_name_is_everywhere(tmp_path: Path, in_process: Run) -> None:
    here = tmp_path / "here"
    said = f"{here} is written. Next: pip install -e {here} && dqlab check my-lab\n"
    assert in_process("new-plugin", "my-lab", "--out", here).stdout == said
    written = {str(path.relative_to(here)): path.read_text() for path in here.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "my_lab.gin", "try.gin", "src/my_lab/critic.py"} <= set(written)
    assert not [name for name, text in written.items() if re.search("qlab-plugin|qlab_plugin|qlabPlugin", text)]
    assert 'my-lab = "my_lab"' in written["pyproject.toml"]
    assert "class MyLabCRR(ActorCritic)" in written["src/my_lab/algorithm.py"]
    assert oct(here.stat().st_mode)[-3:] == "755"
    assert os.listdir(tmp_path) == ["here"]


REFUSED = dict.fromkeys(("My-Lab", "1lab", "my--lab", "../lab", "class", ""), "is no name for a package")
REFUSED |= {name: f"Python knows a module '{name}' already" for name in ("dqlab", "torch", "sys")}
REFUSED |= {"taken": "'taken' exists already: choose another --out"}


def test_a_refusal_is_one_line_and_writes_nothing(
    tmp_path: Path, in_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    for name, message in REFUSED.items():
        refused(in_process("new-plugin", name), message)
    refused(in_process("new-plugin", "mylab", "--out", "nowhere/mylab"), "There is no folder")
    written = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.name == "try.gin":
            raise OSError(28, "No space left on device")
        return written(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_plugin("mylab", tmp_path / "mylab")
    assert os.listdir(tmp_path) == ["taken"]
