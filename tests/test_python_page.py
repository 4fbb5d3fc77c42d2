"""docs/python.md: its code runs as a script, one block after the other and each once, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, TINY, isolated

SMALL = {
    name: int(value)
    for name, _, value in (line.partition("=") for line in TINY)
    if name.endswith(("_dim", "_candidates"))
}
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_works_as_written(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    code = "".join(text for language, text in blocks if language == "python")
    told = 'short["Tracking.mlflow"] = False\n'
    assert told in code
    code = code.replace(told, f"{told}short |= {SMALL!r}\n").replace('"Report.reps": 1000', '"Report.reps": 100')
    (tmp_path / "page.py").write_text(f"print('begins')\n{code}")
    command, env = [sys.executable, "-m", "page"], isolated(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    assert said.count("begins") == 1, "no process of the library runs its caller's script again"
    for shown in (text for language, text in blocks if language == "text"):
        pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
        assert re.search(pattern, said), f"{shown} is not in:\n{said}"
