"""A real Ray cluster on this machine: a head and further nodes, each a `ray start` of its own, as on machines."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

OPTIONS = ("--block", "--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats")
HIDING = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
"""Put before a folder and a command: it and its children see an empty folder, as on another machine."""
SECONDS = 180  # that a node may take to start: five on an idle machine


class Node:
    """The processes of one node, in a session of their own: `command` is `ray start` and its arguments."""

    def __init__(self, *command: str, ip: str = "") -> None:
        self.ip = ip
        env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [*command, *OPTIONS], env=env, stdout=null, stderr=null, start_new_session=True
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def has(self, pid: int) -> bool:
        """Whether a process descends from this node's."""
        with suppress(FileNotFoundError):
            while pid > 1 and pid != self._process.pid:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid == self._process.pid

    def kill(self) -> None:
        """kill -9 all of its own processes (not those of its packs, which have sessions of their own)."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Cluster:
    """A head, which claims to have a GPU, and nodes that join it under addresses 127.0.0.2, 127.0.0.3, ...

    These have twice its memory, and, where root starts them, do not see the folder `hidden`.
    """

    def __init__(self, hidden: Path) -> None:
        self.hidden, self.nodes = hidden, list[Node]()
        program = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        self._start = (program or "ray", "start")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._folder = tempfile.mkdtemp(prefix="dq-")  # short: a socket's path has 107 characters
        place = ("--head", f"--port={port}", f"--temp-dir={self._folder}", "--include-dashboard=false")
        self._head = Node(*self._start, *place, "--num-gpus=1", "--memory=2000000000")
        try:
            until(self._listens, SECONDS)
            until(self._alive, SECONDS)
        except BaseException:
            self.close()
            raise

    def join(self) -> None:
        """A further node."""
        before, ip = self._alive(), f"127.0.0.{len(self.nodes) + 2}"
        hiding = (*HIDING, str(self.hidden)) if os.geteuid() == 0 else ()
        options = (f"--node-ip-address={ip}", f"--address={self.address}", "--memory=4000000000")
        self.nodes.append(Node(*hiding, *self._start, *options, ip=ip))
        until(lambda: self._alive() > before, SECONDS)

    def _listens(self) -> bool:
        host, _, port = self.address.partition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    def _alive(self) -> int:
        """How many nodes the head knows of."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=10)
        return sum(node.state == 0 for node in found.values())

    def close(self) -> None:
        for node in (*self.nodes, self._head):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    """Wait for a condition; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Whether a process runs (one that has ended and is not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
