"""A trained policy as one model that needs no dqlab: chain, candidates, critics and selection, ONNX or PyTorch's own.

An exported folder is a run's folder with one replica and one checkpoint, so `load_policy` takes it; beside the models
it has a card and an example.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from dqlab.errors import ConfigError, RunError, first_line, one_line
from dqlab.files import new_folder, read_text, write_text
from dqlab.noise import NoiseSpec, generator_for
from dqlab.runs.load_policy import EXPORTED, HUB, load_policy
from dqlab.runs.model_card import EXAMPLES, model_card, portable_config, portable_facts
from dqlab.runs.policy import LoadedPolicy
from dqlab.runs.policy_module import PolicyModule, traced_program

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-5
"""Of an exported model's actions, in the range [-1, 1] times the environment's."""


class DrawingModule(nn.Module):
    """The same from states alone: it draws its noise.

    Raises:
        ConfigError: a law has no counterpart in exported programs.
    """

    def __init__(self, inner: PolicyModule) -> None:
        super().__init__()
        self.inner = inner
        for name, spec in inner.specs.items():
            if spec.law[0] not in LAWS:
                raise ConfigError(
                    f"The policy's noise '{name}' has a law of its own: only a model that is given it works."
                )

    def forward(self, state: Tensor) -> Tensor:
        shapes = self.inner.shapes(state.shape[0])  # type: ignore[arg-type]
        dtype = self.inner._dtype
        out: Tensor = self.inner(
            state, {name: _drawn(spec, shapes[name], dtype) for name, spec in self.inner.specs.items()}
        )
        return out


SMALLEST = 1e-20
"""In place of a uniform number that is 0."""


def _drawn(spec: NoiseSpec, shape: list[Any], dtype: torch.dtype) -> Tensor:
    law, parameter = spec.law
    values: Tensor = LAWS[law](shape, dtype, parameter)
    return values


LAWS: Mapping[str, Any] = {
    "normal": lambda shape, dtype, _: torch.randn(shape, dtype=dtype),
    "clipped": lambda shape, dtype, bound: torch.randn(shape, dtype=dtype).clamp(-bound, bound),
    "uniform": lambda shape, dtype, _: torch.rand(shape, dtype=dtype),
    "gumbel": lambda shape, dtype, _: -(-torch.rand(shape, dtype=dtype).clamp(min=SMALLEST).log()).log(),
    "integers": lambda shape, dtype, high: (torch.rand(shape, dtype=dtype) * high).floor().clamp(max=high - 1).long(),
}
"""Of `NoiseSpec.law`, as operations that programs can hold."""


def export_policy(
    run: str | Path,
    out: Path,
    form: str = "onnx",
    checkpoint: str = "best",
    seed: int | None = None,
    push: str = "",
) -> list[Path]:
    """Write a policy's models, its card, an example, and what `load_policy` needs; returns the files.

    Args:
        run, checkpoint, seed: as `load_policy` takes them.
        out: the folder, which may be that of an older export.
        form: `onnx` or `torch`.
        push: `hf:USER/REPO` uploads the folder, too.

    Raises:
        RunError: there is no such policy, or the folder is something else. ConfigError: it cannot be exported: why.
    """
    if form not in FORMATS:
        raise ConfigError(f"There is no format '{form}'. Known: {', '.join(FORMATS)}.")
    if push and not push.startswith(HUB):
        raise ConfigError(f"--push wants {HUB}USER/REPO, not '{push}'.")
    policy = load_policy(run, checkpoint, seed=seed, device="cpu", set={"Experiment.precision": "full"})
    if not policy.source.facts:
        raise ConfigError(
            "The official code's checkpoints have no run that a card could tell of. Use dqlab.load_policy."
        )
    with policy.ready(), torch.no_grad():
        module = PolicyModule(policy)
        models = {"policy_given_noise": module, "policy": DrawingModule(module)}
        written = {f"{name}{FORMATS[form]}": _program(model, module, form, policy) for name, model in models.items()}
        _check(policy, module, written[f"policy_given_noise{FORMATS[form]}"], form)
    with new_folder(out, is_exported, "an exported policy") as new:
        for name, program in written.items():
            program.save(new / name) if form == "onnx" else torch.export.save(program, new / name)
        _write_run(policy, module, new)
        write_text(new / "README.md", model_card(policy, FORMATS[form]))
        write_text(new / "example.py", EXAMPLES[form].format(width=policy.task.state_dim))
    if push:
        _upload(out, push.removeprefix(HUB))
    return sorted(path for path in out.rglob("*") if path.is_file())


def _program(model: nn.Module, module: PolicyModule, form: str, policy: LoadedPolicy) -> Any:
    """A model as a program of any number of states.

    Raises:
        ConfigError: it cannot be traced or converted, or a package is missing.
    """
    inputs: tuple[Any, ...] = module.example_inputs() if model is module else module.example_inputs()[:1]
    try:
        with warnings.catch_warnings(), _without_logs():
            warnings.simplefilter("ignore")
            program = traced_program(model, module, inputs)
            _forget_places(program)
            if form == "torch":
                return program
            names = ["state", *(f"noise_{name}" for each in inputs[1:] for name in each)]
            return torch.onnx.export(program, input_names=names, output_names=["action"], dynamo=True, verbose=False)
    except ImportError as error:
        raise ConfigError(f"ONNX wants packages that are not here ({error}): pip install 'dqlab[export]'.") from error
    except Exception as error:  # a component, perhaps a plugin's, may do what no program can hold
        name = policy.experiment.algorithm
        raise ConfigError(f"'{name}' with these components cannot be exported: {first_line(error)}") from error


def _forget_places(program: Any) -> None:
    """Where in the sources a program's operations are from: files of this machine."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)


@contextmanager
def _without_logs() -> Iterator[None]:
    """Within this, the exporter does not say what it is doing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def is_exported(folder: Path) -> bool:
    """Whether `export_policy` has written a folder."""
    return (folder / EXPORTED).is_file()


def _check(policy: LoadedPolicy, module: PolicyModule, program: Any, form: str) -> None:
    """See that the model acts as the policy does.

    Raises:
        ConfigError: it does not.
    """
    for count in (1, 5):
        states = torch.randn(count, policy.task.state_dim, generator=generator_for(0, "states", count)).to(
            module._dtype
        )
        noise = module.example_inputs(count)[1]
        expected = policy.act(states, module.flat(noise))
        actions = (
            run_onnx(program.model_proto.SerializeToString(), states, noise)
            if form == "onnx"
            else program.module()(states, noise)
        )
        worst = float(
            (torch.as_tensor(actions) - expected).abs().max() / max(1.0, float(np.abs(policy.action_high).max()))
        )
        if not worst <= TOLERANCE:
            raise ConfigError(
                f"The exported model's actions differ from the policy's by {worst:.1e}: it is not written."
            )


def run_onnx(model: str | bytes, states: Tensor, noise: Mapping[str, Tensor]) -> Any:
    """The actions of a model that is given its noise, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    known = {item.name for item in session.get_inputs()}
    given = {"state": states, **{f"noise_{name}": value for name, value in noise.items()}}
    return session.run(None, {name: value.numpy() for name, value in given.items() if name in known})[0]


def _write_run(policy: LoadedPolicy, module: PolicyModule, out: Path) -> None:
    """What makes the folder a run's with one replica, and policy.json."""
    folder, name = policy.source.folder, policy.replica.name
    weights = Path(name) / "checkpoints" / policy.source.file.name
    (out / weights).parent.mkdir(parents=True)
    shutil.copyfile(policy.source.file, out / weights)
    own = folder.replica(name) / "config.gin"
    write_text(out / "config.gin", portable_config(read_text(own if own.exists() else folder.config)))
    summary = folder.replica(name) / "summary.json"
    if summary.exists():
        shutil.copyfile(summary, out / name / "summary.json")
    facts = {**portable_facts(policy.source.facts), "seeds": [policy.replica.seed]}
    facts["replicas"] = {name: policy.replica.as_dict()}
    write_text(out / "run.json", json.dumps(facts, indent=1, default=str))
    record = {"weights": str(weights), "task": policy.task.name, "noise": module.shapes()}
    write_text(out / EXPORTED, json.dumps(record, indent=1))


def _upload(folder: Path, repository: str) -> None:
    """Make a repository on the Hugging Face Hub of a folder.

    Raises:
        RunError: it does not take it.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="dqlab export")
    except Exception as error:  # the Hub's client raises those of several libraries
        raise RunError(f"{HUB}{repository} was not uploaded: {one_line(error)}. The files are in {folder}.") from error
