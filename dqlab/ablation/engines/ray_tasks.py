"""What runs on the nodes of a Ray cluster: an attempt at a pack, and a look at what a node sees. Without torch."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from pathlib import Path

from dqlab.ablation.engines.base import DIED, STOPPED, Ended, Job, Mailbox, job_environment, run_attempt
from dqlab.files import sha256_of, size_of
from dqlab.tracking.run_folder import RunFolder

ADVICE = "All nodes must see what packs write, at the same path: name a folder that they share with --storage DIR."


class LostAttemptError(Exception):
    """An attempt died, as its argument says: Ray makes another."""


def run_pack(job: Job, mailbox: Mailbox, gpus: float) -> Ended:
    """One attempt at a pack, on a node; a LostAttemptError where it died."""
    if mailbox.asked():
        return Ended(job, STOPPED, "not started")
    try:
        mailbox.begun.touch()
    except OSError as error:  # a node that has joined later
        reason = f"the node {platform.node()} does not see {job.folder.parent}: {error.strerror}"
        raise LostAttemptError(Ended(job, DIED, reason)) from error
    variables = job_environment(job.threads, *((None, gpus) if job.gpu_memory else ("",)))
    outcome = run_attempt(job, variables, mailbox.write, mailbox.asked)
    if outcome.retryable and not mailbox.asked():
        raise LostAttemptError(outcome)
    return outcome


def storage_fault(token: Path, inputs: Mapping[Path, str]) -> str:
    """What this node lacks of a folder that the driver has made and locked, and of datasets; empty where nothing."""
    if not token.is_dir():
        return f"does not see {token.parent}. {ADVICE}"
    try:
        (token / uuid.uuid4().hex).write_text("")
        if not RunFolder(token).in_use():
            mount = "Mount it so that flock works between machines (NFS 4, Lustre with -o flock)"
            said = f"sees {token.parent}, but not its locks, which keep two processes from writing one pack"
            return f"{said}. {mount}, or choose another --storage DIR."
    except OSError as error:
        return f"cannot write to {token.parent} ({error.strerror}). {ADVICE}"
    for path, known in inputs.items():
        if not path.exists() or fingerprint(path) != known:
            what = "has another dataset in" if path.exists() else "does not see the dataset"
            return f"{what} {path}. All nodes must see what packs read, at the same path."
    return ""


def fingerprint(path: Path) -> str:
    """By which a dataset is known to be the same: SHA-256 of a file, size of a folder."""
    return sha256_of(path) if path.is_file() else f"{size_of(path)} bytes"
