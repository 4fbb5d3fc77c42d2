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

OPTIONS = ("--block", "--num-cpus=1", "--memory=4000000000", "--object-store-memory=200000000", "--disable-usage-stats")
"""No node has more than another: by default it has what is free when it starts, and what asks for that waits forever
once the node is lost that had most."""
SECONDS = 180
"""That a node may take to start: five on an idle machine."""


class Node:
    """The processes of one node, in a session of their own.

    Args:
        arguments: of `ray start`.
        ip: its address, where it is not the machine's own.
        hides: a folder that this node does not see: in its place there is an empty disk of its own.
    """

    def __init__(self, *arguments: str, ip: str = "", hides: Path | None = None) -> None:
        program = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert program, "there is no program ray"
        self.ip = ip
        named = [f"--node-ip-address={ip}"] if ip else []
        self._process = subprocess.Popen(
            [*(hiding(hides) if hides else ()), program, "start", *named, *arguments, *OPTIONS],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
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
    """A head, which claims to have a GPU, and nodes that join it under addresses 127.0.0.2, 127.0.0.3, ..."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._folder = tempfile.mkdtemp(prefix="dq-")  # short: a socket's path has 107 characters
        self._head = Node(
            "--head", f"--port={port}", f"--temp-dir={self._folder}", "--include-dashboard=false", "--num-gpus=1"
        )
        self.nodes: list[Node] = []
        try:
            until(lambda: listens(port), SECONDS)
            until(self._alive, SECONDS)
        except BaseException:
            self.close()
            raise

    def join(self, hides: Path | None = None) -> Node:
        """A further node."""
        before = self._alive()
        node = Node(f"--address={self.address}", ip=f"127.0.0.{len(self.nodes) + 2}", hides=hides)
        self.nodes.append(node)
        until(lambda: self._alive() > before, SECONDS)
        return node

    def _alive(self) -> int:
        """How many nodes the head knows of."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=10)
        return sum(node.state == 0 for node in found.values())

    def close(self) -> None:
        """End all nodes."""
        for node in (*self.nodes, self._head):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def hiding(folder: Path) -> list[str]:
    """What is put before a command so that it and its children see an empty folder, as on another machine."""
    return ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


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
