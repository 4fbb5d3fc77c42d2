"""D4RL's own environments as a backend: gym, mujoco-py and MuJoCo 2.1.0, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from threading import Timer
from typing import IO, Any, ClassVar

import numpy as np

from dqlab.config.fields import check_field
from dqlab.envs.backend import Environments, StepResult, env_backends
from dqlab.envs.physics import Array
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, StackError
from dqlab.files import expanded

VARIABLE = "DQLAB_LEGACY"
PROTOCOL = 1
WORKER = Path(__file__).with_name("d4rl_worker.py")


@env_backends.register(
    "d4rl",
    source="D4RL 1.1 (Fu et al. 2020) on gym 0.23.1, mujoco-py 2.1.2.14, MuJoCo 2.1.0",
    cites=("fu2020d4rl", "todorov2012mujoco"),
)
class OriginalStack(Environments):
    """D4RL's own environments on MuJoCo 2.1.0 (`make legacy`); a physics law does not apply.

    A ConfigError where the stack is not installed, or D4RL has no such task.
    """

    own_physics: ClassVar[str] = "MuJoCo 2.1.0"

    def __init__(self, task: Task, physics: str) -> None:
        if not task.file:
            raise ConfigError(f"D4RL has no {task.name}: Experiment.env_backend='gymnasium' steps it.")
        given = task.settings() if task.settings else None
        for each in fields(given) if given else ():
            wanted = f"{each.default!r}, D4RL's own for {task.name} (Experiment.env_backend='gymnasium' has others)"
            check_field(getattr(given, each.name) == each.default, given, each.name, wanted)
        self._task, self._python, self._count = task, legacy_python(), 0

    @cached_property
    def worker(self) -> Worker:
        """The process, started when it is first needed."""
        return Worker(self._python)

    def prepare(self, count: int) -> None:
        while self._count < count:  # one at a time: a kitchen takes a second, and an answer has a time limit
            self.worker.ask("make", task=self._task.name, count=self._count + 1)
            self._count += 1

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        self.prepare(len(seeds))
        return np.array(self.worker.ask("reset", seeds=list(seeds), groups=list(groups))["observations"])

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        got = self.worker.ask("step", which=list(which), actions=np.asarray(actions, dtype=np.float64).tolist())
        return StepResult(*(np.array(got[name]) for name in ("observations", "rewards", "over")))

    def close(self) -> None:
        if worker := self.__dict__.pop("worker", None):
            worker.close()
        self._count = 0


def legacy_python() -> Path:
    """The Python of the environment that holds gym 0.23.1, mujoco-py and D4RL; or a ConfigError says what to do."""
    named = os.environ.get(VARIABLE)
    folder = expanded(named).absolute() if named else Path(__file__).parents[3] / ".venv-legacy"
    python = folder / "bin" / "python"
    if not python.exists():
        missing = f"${VARIABLE} names {folder}, where there is no bin/python" if named else "not installed"
        advice = "`make legacy` in a checkout of dqlab builds it (about 2 minutes)"
        elsewhere = f"${VARIABLE} names one that was built elsewhere"
        raise ConfigError(f"D4RL's original stack: {missing}. {advice}; {elsewhere}.")
    if not named and not (folder / ".ready").exists():  # `scripts/legacy.sh` writes it when all is there
        raise ConfigError(f"D4RL's original stack in {folder} is not complete: `make legacy` goes on with it.")
    return python


class Worker:
    """A running worker, and the `versions` of the packages in it by name; a StackError where it does not start.

    Args:
        python: of the environment that holds the original stack.
        start_seconds, answer_seconds: how long it may take to import D4RL, and to answer.
        program: the worker's file, or one that adds requests to it.
    """

    def __init__(
        self, python: Path, start_seconds: float = 300.0, answer_seconds: float = 600.0, program: Path = WORKER
    ) -> None:
        self._answer_seconds, self._last = answer_seconds, "none"
        mujoco = Path(os.environ.get("MUJOCO_PY_MUJOCO_PATH") or python.parent.parent / "mujoco210").absolute()  # 2.1.0
        libraries = filter(None, [str(mujoco / "bin"), os.environ.get("LD_LIBRARY_PATH")])
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONSTARTUP")},
            "MUJOCO_PY_MUJOCO_PATH": str(mujoco),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "MUJOCO_PY_FORCE_CPU": "1",
            "PYTHONPATH": str(Path(__file__).parent),  # no module of dqlab's but the worker
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process: Any = subprocess.Popen(
            [str(python), str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            cwd=Path(__file__).parent,  # not the user's folder, where a `d4rl` may lie
            start_new_session=True,  # Ctrl-C is dqlab's to answer; the worker ends when its input closes
        )
        self.pid, self.close = self._process.pid, weakref.finalize(self, end_worker, self._process, self._said)
        greeting = self._answer(start_seconds, "start")
        if greeting.get("protocol") != PROTOCOL:
            raise self._failed(f"speaks protocol {greeting.get('protocol')}, not {PROTOCOL}")
        self.versions: dict[str, str] = greeting["versions"]

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; a StackError where there is none in time, or it is an error."""
        request = json.dumps({"do": do, **fields}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._failed(f"has ended before '{do}'") from error
        return self._answer(self._answer_seconds, do)

    def _answer(self, seconds: float, do: str) -> dict[str, Any]:
        """The next line of its output; a worker that has not ended it within this time is killed."""
        begun, silence = time.monotonic(), Timer(seconds, self._process.kill)
        silence.start()
        try:
            line = self._process.stdout.readline()
        finally:
            silence.cancel()
        if not line.endswith(b"\n"):
            late = f"has not answered '{do}' within {seconds:g} seconds"
            raise self._failed(late if time.monotonic() - begun >= seconds else f"has ended at '{do}'")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._failed(f"answers '{do}' with what is no JSON: {line.strip()[:80]!r}") from error
        if not answer.get("ok"):
            raise StackError(f"D4RL's original stack, at '{do}': {answer.get('kind')}: {answer.get('error')}")
        return answer

    def _failed(self, what: str) -> StackError:
        """The error of a worker that can no longer be used, with the last line that it wrote."""
        if not self._said.closed:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 4096))
            lines = self._said.read().decode(errors="replace").splitlines()
            self._last = next((line.strip() for line in reversed(lines) if line.strip()), "none")
        self.close()
        ended = f"{what} (exit code {self._process.returncode}). Its last words: {self._last}"
        return StackError(f"The process of D4RL's original stack {ended}")


def end_worker(process: Any, said: IO[bytes]) -> None:
    """Close its input, by which it ends; kill it if it does not."""
    with said, process:
        try:
            process.stdin.close()
            process.wait(timeout=2)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
