"""Commands of dqlab, forked from a process that has imported third-party packages: `import torch` costs seconds.

Once `install` has been called, `subprocess` starts `python -m dqlab...` as a fork of a template, a process of its own
that has imported `SHARED`, no module of dqlab, and computed nothing. All else is as ever: dqlab is imported anew, in a
child of whoever starts it, with the command's own arguments, environment, folder, streams, session and exit code; what
that command starts is forked likewise, from a copy of the template as it was.

What a fork does not show: variables that begin as in `READ_EARLY` (where one differs, or a `sitecustomize` is there,
Python starts as usual), the order of sets of strings, and how Python takes down modules at its end. Tests of these are
marked `fresh_start`, or run in other locales; doors (test_light.py, test_doors.py) start as usual, too. With
DQLAB_TESTS_FORK=0 in the environment, or where there is a GPU, nothing is forked.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

_SHARED = """
torch._inductor.compile_fx gin gymnasium h5py matplotlib.backends.backend_agg mlflow.store.tracking.sqlalchemy_store
numpy pydantic rich.progress rliable.library rliable.metrics safetensors.torch
"""
SHARED = _SHARED.split()
"""Not MuJoCo: it chooses how it draws while it is imported, as the command wants it."""
MODULES = ("dqlab", "gpu", "page", "pytest")
"""That are run in forks: dqlab's, and tests, benchmarks and scripts that use it."""
READ_EARLY = ("CUDA_HOME", "KMP_AFF", "LANG", "LC_", "LD_", "MKL", "MPL", "OMP_NUM", "OPENBLAS", "PYTHON")
READ_EARLY += ("PYTORCH", "TORCH")
NOT_EARLY = ("PYTHONBREAKPOINT", "PYTHONPATH", "PYTHONSAFEPATH", "TORCHINDUCTOR_CACHE_DIR")
"""A fork follows these; the first, which Ray sets, is read at breakpoints, the last when something is compiled."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2): orphans below a process become its children."""
HIGH = 200
"""Descriptors from here on are nobody's."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Template:
    """This process's own template, started when it is first needed, or handed over by the one it was forked from."""

    def __init__(self, channel: socket.socket | None = None, born: dict[str, str] | None = None) -> None:
        self.owner, self.channel, self.born = os.getpid(), channel, born or dict(os.environ)
        self.lock, self.off = threading.Lock(), False

    def serves(self, command: Any, env: dict[str, str], others: tuple[Any, ...]) -> bool:
        """Whether a command can be forked; `others`: arguments of `Popen` that a fork knows nothing of."""
        given = [*map(str, command[:3])] if isinstance(command, list) else []
        ours = given[:2] == [sys.executable, "-m"] and given[2].startswith(MODULES)
        if self.off or not ours or any(others):
            return False
        paths = {*env.get("PYTHONPATH", "").split(os.pathsep)} - {*self.born.get("PYTHONPATH", "").split(os.pathsep)}
        if any(os.path.exists(os.path.join(path, "sitecustomize.py")) for path in paths):
            return False
        early = [name for name in {*env, *self.born} if name.startswith(READ_EARLY) and name not in NOT_EARLY]
        return self.owner == os.getpid() and all(env.get(name) == self.born.get(name) for name in early)

    def fork(self, command: list[Any], streams: list[int], **more: Any) -> int:
        """A new child of this process, with three descriptors of ours as its streams; returns its number."""
        request = json.dumps({"command": [*map(str, command)], "born": self.born, **more}).encode()
        with self.lock:
            if self.channel is None:
                self.channel = self._start()
            prctl = ctypes.CDLL(None).prctl
            prctl(SUBREAPER, 1, 0, 0, 0)
            socket.send_fds(self.channel, [request], streams)
            pid = int(self.channel.recv(100))
            prctl(SUBREAPER, 0, 0, 0, 0)
        return pid

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, __file__, str(its.fileno())]
            self._process = _Popen(command, pass_fds=[its.fileno()], stdin=-3, stdout=-3, env=self.born)
        return ours


_Popen = subprocess.Popen
template: Template


class Popen(_Popen):  # type: ignore[type-arg]
    """As ever, but for how commands of dqlab's begin."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest
    ) -> None:
        environment = dict(os.environ if env is None else env)
        pipes, (_, gid, gids, uid, _, session, *group) = rest[:6], rest[6:]
        own = gid is not None or gids or uid is not None or group not in ([], [-1])
        others = (executable, preexec_fn, pass_fds, shell, own)
        if not template.serves(args, environment, others):
            given = (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            super()._execute_child(*given, *rest)  # type: ignore[misc]
            return
        streams = [pipe if pipe != -1 else own for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = template.fork(args, streams, cwd=os.path.abspath(cwd or "."), env=environment, session=session)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def install(own: Template) -> None:
    """Let `subprocess` fork commands of dqlab's from now on, where that is the same."""
    global template
    template = own
    subprocess.Popen = Popen  # type: ignore[misc]


def serve(channel: socket.socket) -> dict[str, Any]:
    """Fork for whoever asks; returns in the children only, with what each is to do. Ends when nobody can ask."""
    while True:
        request, streams, _, _ = socket.recv_fds(channel, 1 << 20, 20)
        if not request:
            os._exit(0)
        reader, writer = os.pipe()
        if between := os.fork():
            for descriptor in (writer, *streams):
                os.close(descriptor)
            pid = os.read(reader, 100)
            os.close(reader)
            os.waitpid(between, 0)
            channel.send(pid)
            continue
        if pid := os.fork():  # an orphan at once, so that whoever asks is its parent
            os.write(writer, str(pid).encode())
            os._exit(0)
        for descriptor in (reader, writer):
            os.close(descriptor)
        channel.close()
        asked = json.loads(request)
        if asked["session"]:
            os.setsid()
        own, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            channel.close()
            return {**asked, "streams": streams, "channel": own}
        own.close()
        for descriptor in streams:
            os.close(descriptor)


def become(asked: dict[str, Any]) -> None:
    """Arguments, environment, folder and streams of the command that this process is from now on."""
    channel = socket.socket(fileno=fcntl.fcntl(asked["channel"].detach(), fcntl.F_DUPFD_CLOEXEC, HIGH))
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for descriptor in asked["streams"]]
    os.closerange(3, HIGH)
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        born = getattr(sys, name)
        text = {"encoding": born.encoding, "errors": born.errors, "buffering": 1 if number == 2 else -1}
        stream = open(number, "w" if number else "r", closefd=False, **text)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    before = len(first_paths("here"))
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.path[:before] = first_paths(asked["cwd"])
    importlib.invalidate_caches()
    sys.modules["numpy"].random.seed()
    sys.orig_argv[:] = asked["command"]
    install(Template(channel, asked["born"]))


def first_paths(folder: str) -> list[str]:
    """Of `sys.path`, where Python is started in a folder with this environment."""
    here = [] if os.environ.get("PYTHONSAFEPATH") else [folder]
    return here + [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def run() -> None:
    """Run the command, and end as an interpreter does, but for the taking down of modules one by one."""
    try:
        _, how, what, *rest = sys.orig_argv
        sys.argv[:] = [how, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as ended:
        if not isinstance(ended.code, (int, type(None))):
            raise
        code = ended.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0) & 255)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.modules["forked"] = sys.modules["__main__"]
    for name in SHARED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    run()
