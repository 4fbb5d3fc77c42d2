"""A trained policy as one model that needs no dqlab: chain, candidates, critics and selection, ONNX or PyTorch's own.

An exported folder is a run's with one replica and one checkpoint, which `load_policy` takes; it has a card and example.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from dqlab.config.gin_files import parse_bindings, rebind_text
from dqlab.errors import ConfigError, RunError, first_line, one_line, pip_install
from dqlab.files import check_replaceable, new_folder, read_text, write_text
from dqlab.noise import generator_for
from dqlab.printing import markdown_table
from dqlab.runs.load_policy import EXPORTED, HUB, load_policy
from dqlab.runs.policy import LoadedPolicy
from dqlab.runs.policy_module import PolicyModule
from dqlab.tracking.records import read_record
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
TEMPLATES = Path(__file__).parent / "templates"
OLDER: Any = (lambda old: (old / EXPORTED).is_file(), "an exported policy")  # what may be replaced
TOLERANCE = 1e-5  # of an exported model's actions, in the range [-1, 1] times the environment's


def export_policy(
    run: str | Path, out: Path, form: str = "onnx", checkpoint: str = "best", seed: int | None = None, push: str = ""
) -> list[Path]:
    """Write a policy of `load_policy`: its models, a card, an example, and what `load_policy` needs; returns the files.

    Args:
        out: the folder, which may be that of an older export.
        form: `onnx` or `torch`.
        push: `hf:USER/REPO` uploads the folder, too.

    Raises:
        RunError: there is no such policy, or the folder is something else. ConfigError: it cannot be exported: why.
    """
    if push and not push.startswith(HUB):
        raise ConfigError(f"--push wants {HUB}USER/REPO, not '{push}'.")
    check_replaceable(out, *OLDER)
    policy = load_policy(run, checkpoint, seed=seed, device="cpu", set={"Experiment.precision": "full"})
    if not policy.source.facts:
        raise ConfigError("The official code's checkpoints have no run for a card to tell of. Use dqlab.load_policy.")
    with policy.ready(), torch.no_grad():
        module = PolicyModule(policy)
        models = {"policy_given_noise": True, "policy": False}  # whether they are given their noise
        written = {f"{name}{FORMATS[form]}": _program(module, given, form, policy) for name, given in models.items()}
        _check(policy, module, written[f"policy_given_noise{FORMATS[form]}"], form)
    kept = {name: without_folders(value) for name, value in policy.source.facts.items() if name not in OF_THIS_MACHINE}
    facts = {**kept, "data": {**kept["data"], "skipped": []}}
    with new_folder(out, *OLDER) as new:
        for name, program in written.items():
            program.save(new / name) if form == "onnx" else torch.export.save(program, new / name)
        _write_run(policy, facts, module, new)
        write_text(new / "README.md", model_card(policy, facts, FORMATS[form]))
        example = (TEMPLATES / f"example_{form}.txt").read_text()
        example = example.format(width=policy.task.state_dim, dtype=policy.experiment.dtype)
        write_text(new / "example.py", example)
    if push:
        from huggingface_hub import HfApi

        repository = push.removeprefix(HUB)
        try:
            HfApi().create_repo(repository, exist_ok=True)
            HfApi().upload_folder(repo_id=repository, folder_path=out, commit_message="dqlab export")
        except Exception as error:  # the Hub's client raises those of several libraries
            raise RunError(f"{push} was not uploaded: {one_line(error)}. The files are in {out}.") from error
    return sorted(path for path in out.rglob("*") if path.is_file())


def _program(module: PolicyModule, given_noise: bool, form: str, policy: LoadedPolicy) -> Any:
    """The module, which is given its noise or draws it, as a program for any number of states."""
    inputs = module.example_inputs()[: 1 + given_noise]
    batch, names = torch.export.Dim("B", min=1), ["state"]
    sizes: dict[str, Any] = {"state": {0: batch}}
    if given_noise:
        sizes["noise"] = {name: {} if at is None else {at + 1: batch} for name, at in module.batch_dims.items()}
        names += [f"noise_{name}" for name in sorted(module.specs)]
    try:
        with warnings.catch_warnings(), ExitStack() as end:  # the exporter is not to say what it is doing
            warnings.simplefilter("ignore")
            end.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            program = torch.export.export(module.eval(), inputs, dynamic_shapes=sizes, strict=False)
            for part in program.graph_module.modules():
                for node in part.graph.nodes if isinstance(part, GraphModule) else ():
                    node.meta.pop("stack_trace", None)  # where in the sources it is from: files of this machine
            if form == "torch":
                return program
            return torch.onnx.export(program, input_names=names, output_names=["action"], dynamo=True, verbose=False)
    except ImportError as error:
        raise ConfigError(f"ONNX wants packages that are not here ({error}): {pip_install('export')}.") from error
    except Exception as error:  # a component, perhaps a plugin's, may do what no program can hold
        name = policy.experiment.algorithm
        raise ConfigError(f"'{name}' with these components cannot be exported: {first_line(error)}") from error


def _check(policy: LoadedPolicy, module: PolicyModule, program: Any, form: str) -> None:
    """See that the model acts as the policy does."""
    most = max(1.0, float(np.abs(policy.action_high).max()))
    for count in (1, 5):
        noise = module.example_inputs(count)[1]
        generator = generator_for(0, "states", count)
        states = torch.randn(count, policy.task.state_dim, generator=generator).to(module.dtype)
        if form == "onnx":
            actions = run_onnx(program.model_proto.SerializeToString(), states, noise)
        else:
            actions = program.module()(states, noise)
        worst = float((torch.as_tensor(actions) - policy.act(states, module.flat(noise))).abs().max()) / most
        if not worst <= TOLERANCE:
            raise ConfigError(f"The exported model's actions are {worst:.1e} off the policy's: it is not written.")


def run_onnx(model: str | bytes, states: Tensor, noise: Mapping[str, Tensor]) -> Any:
    """The actions of a model that is given its noise, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    known = {item.name for item in session.get_inputs()}
    given = {"state": states, **{f"noise_{name}": value for name, value in noise.items()}}
    return session.run(None, {name: value.numpy() for name, value in given.items() if name in known})[0]


def _write_run(policy: LoadedPolicy, facts: dict[str, Any], module: PolicyModule, out: Path) -> None:
    """What makes the folder a run's with one replica, and policy.json."""
    folder, name = policy.source.folder, policy.replica.name
    weights = Path(name) / "checkpoints" / policy.source.file.name
    (out / weights).parent.mkdir(parents=True)
    shutil.copyfile(policy.source.file, out / weights)
    text = read_text(folder.config_of(name))
    bound = parse_bindings(text)
    short = {name: changed for name, value in bound.items() if (changed := without_folders(value)) != value}
    short |= {IMPORT_PATH: ()} if IMPORT_PATH in short else {}  # those who load it say where their modules are
    write_text(out / "config.gin", rebind_text(text, short))
    summary = folder.replica(name) / "summary.json"
    if summary.exists():
        shutil.copyfile(summary, out / name / "summary.json")
    alone = {**facts, "seeds": [policy.replica.seed], "replicas": {name: policy.replica.as_dict()}}
    write_text(out / "run.json", json.dumps(alone, indent=1, default=str))
    laws = {name: (spec.law, spec.parameter) for name, spec in module.specs.items()}
    record = {"weights": str(weights), "task": policy.task.name, "noise": module.shapes(), "laws": laws}
    write_text(out / EXPORTED, json.dumps(record, indent=1))


def model_card(policy: LoadedPolicy, facts: dict[str, Any], suffix: str) -> str:
    """The model card, as the Hugging Face Hub reads it."""
    facts, chunk = {"physics": "", **facts}, policy.experiment.action_chunk
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    played = f"\nActions are {chunk} in a row, to be played before it is asked again." if chunk > 1 else ""
    caveat = f"\n**Its data and its scores: {facts['caveat']}.**\n" if facts["caveat"] else ""
    summary, scores = policy.source.folder.replica(policy.replica.name) / "summary.json", "The run has not finished."
    if summary.exists():
        rows, selection = [], read_record(summary, dict[str, Any])["selection"]
        for rule, meaning in SELECTION_RULES.items():
            score, step = selection[rule]["score_mean"], selection[rule]["step"]
            rows.append((rule_name(rule), f"{score:.1f}", "" if step is None else f"{step:,}", meaning))
        scores = markdown_table(("rule", "score" if facts.get("scored", True) else "return", "step", ""), rows)
    texts = {"suffix": suffix, "versions": versions, "played": played, "caveat": caveat, "scores": scores}
    return (TEMPLATES / "card.md").read_text().format(policy=policy, facts=facts, **texts)


IMPORT_PATH = "import_path.folders"
OF_THIS_MACHINE = ("mlflow_uri", "reason", "execution_reason")
"""Of run.json: what is of no use elsewhere, and may name folders in its text."""


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
