"""Without the original stack, or with a broken one: one clear message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, isolated

from dqlab.envs import env_backends, tasks
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.errors import ConfigError, StackError


def stand_in(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return python


def test_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of `make fidelity`, which writes no page."""
    monkeypatch.setenv("DQLAB_LEGACY", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"DQLAB_LEGACY names {tmp_path}, .* `make legacy`"):
        env_backends.get("d4rl")(tasks.get("hopper-medium-v2"), "mujoco210")
    with pytest.raises(ConfigError, match="D4RL has no bandit-2d"):
        env_backends.get("d4rl")(tasks.get("bandit-2d"), "mujoco210")
    command = [sys.executable, str(ROOT / "scripts" / "fidelity.py"), "--out", "table.md"]
    done = subprocess.run(command, cwd=tmp_path, env=isolated(tmp_path), capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr.count("\n"), "make legacy" in done.stderr) == (2, 1, True)
    assert not (tmp_path / "table.md").exists()
    assert stand_in(tmp_path, "") == legacy_python(), "one of one's own"


def test_a_python_without_the_stack() -> None:
    with pytest.raises(StackError, match="at 'start': ModuleNotFoundError: No module named 'gym'"):
        Worker(Path(sys.executable))


LAST_WORDS = r"ended at 'start' \(exit code 7\)\. Its last words: no such library"
BROKEN = [
    ("echo first >&2; echo 'no such library' >&2; exit 7", LAST_WORDS),
    ("exec sleep 60", r"has not answered 'start' within 0\.5 seconds"),
    ("printf '{'; exec sleep 60", r"has not answered 'start' within 0\.5 seconds"),
    ("printf '{'; exit 7", "has ended"),
    ("echo hello; cat", "what is no JSON: b'hello'"),
    ("""echo '{"ok": true, "protocol": 99, "versions": {}}'; cat""", "speaks protocol 99, not 1"),
]


@pytest.mark.parametrize(("script", "said"), BROKEN)
def test_a_process_that_dies_hangs_or_says_something_else(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(StackError, match=said):
        Worker(stand_in(tmp_path, script), start_seconds=0.5 if "sleep" in script else 60.0)
