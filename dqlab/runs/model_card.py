"""What lies beside an exported model: a card, an example, and records that name no folder of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.config.gin_syntax import parse_bindings, rebind_text
from dqlab.runs.policy import LoadedPolicy
from dqlab.tracking.records import read_record
from dqlab.tracking.selection_rules import SELECTION_RULES


def model_card(policy: LoadedPolicy, suffix: str) -> str:
    """The model card, as the Hugging Face Hub reads it."""
    facts = portable_facts(policy.source.facts)
    data = facts["data"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    summary = policy.source.folder.replica(policy.replica.name) / "summary.json"
    rows = []
    if summary.exists():
        selection = read_record(summary, dict[str, Any])["selection"]
        for rule, meaning in SELECTION_RULES.items():
            row = selection[rule]
            step = "" if row["step"] is None else f"{row['step']:,}"
            rows.append(f"| {rule.replace('_', '-')} | {row['score_mean']:.1f} | {step} | {meaning} |")
    what = "score" if facts.get("scored", True) else "return"
    scores = [f"| rule | {what} | step | |", "|---|---|---|---|", *rows] if rows else ["The run has not finished."]
    chunk = policy.experiment.action_chunk
    played = f"Actions are {chunk} in a row, to be played one after the other before it is asked again."
    return "\n".join(
        [
            "---\nlibrary_name: dqlab\npipeline_tag: reinforcement-learning",
            f"tags: [offline-rl, {policy.experiment.algorithm}, {policy.task.name}]\n---",
            f"# {policy.experiment.algorithm} on {policy.task.name}",
            "",
            f"`policy{suffix}` takes states (B, {policy.task.state_dim}) as the environment gives them, and gives",
            f"actions (B, {policy.pack.dims.action}) in its units; `policy_given_noise{suffix}` takes the noise, too",
            "(`policy.json` has its shapes). `example.py` runs it; `dqlab.load_policy` loads this folder.",
            *([played] if chunk > 1 else []),
            "",
            *([f"**{facts['caveat']}**", ""] if facts["caveat"] else []),
            f"- checkpoint: {policy.replica.title}, after {policy.source.step:,} updates",
            f"- data: {data['source']}, SHA-256 `{data['digest']}`",
            f"- physics: {facts.get('physics', '')}",
            f"- versions: {versions}",
            "",
            *scores,
            "",
        ]
    )


EXAMPLES = {
    "onnx": '''"""Actions of the exported policy: pip install onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(str(Path(__file__).parent / "policy.onnx"))
states = np.zeros((2, {width}), dtype=np.float32)
print(session.run(None, {{"state": states}})[0])
''',
    "torch": '''"""Actions of the exported policy: PyTorch alone."""

from pathlib import Path

import torch

policy = torch.export.load(Path(__file__).parent / "policy.pt2").module()
states = torch.zeros(2, {width})
print(policy(states))
''',
}

OF_THIS_MACHINE = ("mlflow_uri", "reason", "execution_reason")
"""Of run.json: what is of no use elsewhere, and may name folders in its text."""


def portable_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says, for other machines: of files the names, and the dataset's digest."""
    kept = {name: without_folders(value) for name, value in facts.items() if name not in OF_THIS_MACHINE}
    return {**kept, "data": {**kept["data"], "skipped": []}}


def portable_config(text: str) -> str:
    """A configuration for other machines; those who load it say where their modules are, if Python does not know."""
    bound = parse_bindings(text)
    changed = {name: short for name, value in bound.items() if (short := without_folders(value)) != value}
    return rebind_text(text, {**changed, **({IMPORT_PATH: ()} if IMPORT_PATH in changed else {})})


def without_folders(value: Any) -> Any:
    """A value, or all in it, with the names of files in place of local paths: `file:/home/me/a.npz` -> `file:a.npz`."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_folders, value))
    found = LOCAL_PATH.fullmatch(value) if isinstance(value, str) else None
    return f"{found['kind']}{Path(found['path']).name}" if found else value


LOCAL_PATH = re.compile(r"(?P<kind>(?:[\w.+-]+:)*)(?P<path>(?:(?<=file:)//|/(?!/)|~).*)", re.DOTALL)
"""Absolute, or of somebody's home; after the name of a data source, perhaps. Not the address of a server."""
IMPORT_PATH = "import_path.folders"
