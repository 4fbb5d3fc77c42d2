"""Without the original stack, or with a broken one: one clear message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dqlab.envs import env_backends, tasks
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.errors import ConfigError, StackError

HOPPER = tasks.get("hopper-medium-v2")


def stand_in(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return python


def test_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQLAB_LEGACY", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"DQLAB_LEGACY names {tmp_path}, .* `make legacy`"):
        env_backends.get("d4rl")(HOPPER, "mujoco210")


def test_an_environment_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQLAB_LEGACY", str(tmp_path))
    assert stand_in(tmp_path, "") == legacy_python()


def test_tasks_that_d4rl_does_not_have() -> None:
    with pytest.raises(ConfigError, match="D4RL has no bandit-2d"):
        env_backends.get("d4rl")(tasks.get("bandit-2d"), "mujoco210")


def test_a_python_without_the_stack() -> None:
    with pytest.raises(StackError, match="at 'start': ModuleNotFoundError: No module named 'gym'"):
        Worker(Path(sys.executable))


def test_a_process_that_dies_at_once(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"ended at 'start' \(exit code 7\)\. Its last words: no such library"):
        Worker(stand_in(tmp_path, "echo first >&2; echo 'no such library' >&2; exit 7"))


def test_a_process_that_hangs_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"has not answered 'start' within 0\.3 seconds"):
        Worker(stand_in(tmp_path, "exec sleep 60"), start_seconds=0.3)


@pytest.mark.parametrize(
    ("then", "said"), [("exec sleep 60", "has not answered 'start' within"), ("exit 7", "has ended")]
)
def test_a_process_that_hangs_or_dies_in_the_middle_of_a_line(tmp_path: Path, then: str, said: str) -> None:
    with pytest.raises(StackError, match=said):
        Worker(stand_in(tmp_path, f"printf '{{'; {then}"), start_seconds=1.0)


def test_a_process_that_says_something_else(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="what is no JSON: b'hello'"):
        Worker(stand_in(tmp_path, "echo hello; cat"))


def test_a_process_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="speaks protocol 99, not 1"):
        Worker(stand_in(tmp_path, """echo '{"ok": true, "protocol": 99, "versions": {}}'; cat"""))
