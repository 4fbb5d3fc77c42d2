"""What this machine has to spare, and which versions are installed on it."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
GPU_SHARE = "DQLAB_GPU_SHARE"
"""Environment variable: the share of a GPU's memory that a process may take; whoever starts several on one sets it."""


def version_of(package: str) -> str:
    """A package's version, in words."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors may take on a device; of a GPU that is shared, what is left of this process's share."""
    if device.type != "cuda":
        return available_memory()
    import torch

    free, total = torch.cuda.mem_get_info(device)
    share = float(os.environ.get(GPU_SHARE, 1.0))
    return int(min(free, total * share - torch.cuda.memory_reserved(device)))


def available_memory() -> int:
    """Bytes that new data may take without swapping: what the system has, and what this container may have."""
    return max(0, min([_of_the_system(), *_of_the_container()]))


def resident_memory() -> int:
    """Bytes of memory that this process occupies; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def available_disk(folder: Path) -> int:
    """Free bytes where a folder is, or would be made."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def in_words(count: int) -> str:
    """Bytes for people, such as `1.3 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"


def duration(seconds: float) -> str:
    """A time span for people: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _of_the_system() -> int:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _of_the_container() -> list[int]:
    """What a control group, version 2, leaves; files that are only cached do not count."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return [int((CGROUP / "memory.max").read_text()) - used + int(stat["inactive_file"])]
    return []
