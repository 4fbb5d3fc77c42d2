"""Every command that computes on a GPU, where the card has no memory: it gets as far as the first tensor there.

`mocked_card/sitecustomize.py` answers for the driver, in a process that begins with it. One process runs all commands.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, bindings, isolated
from made_packs import CELLS, pack_text, run_pack
from mocked_machine import Machine

from dqlab.ablation.engines.base import Engine, Job, LocalEngine
from dqlab.ablation.engines.slurm import SlurmEngine

FULL = "not enough memory (CUDA out of memory: this card has none.)"
TRAIN = ("train", "--gin", str(ROOT / "gin" / "quickstart.gin"))
COMMANDS = {
    "training": [*TRAIN, *bindings()],
    "training on the second card": [*TRAIN, "--device", "cuda:1", *bindings()],
    "training on a card that is not there": [*TRAIN, "--device", "cuda:2", *bindings()],
    "evaluation": ["eval", "run"],
    "a figure": ["figure", "bandit", "--steps", "10"],
    "a grid": ["ablate", "--grid", "made.gin", "--device", "cuda", "--set", *TINY],
    "the doctor": ["doctor", "--json"],
}
"""`auto`, which is a card here, where nothing is said of a device."""
DRIVER = """
import contextlib, io, json, os, sys
import gin
from dqlab.cli import main
told = {}
for name, command in json.loads(sys.argv[1]).items():
    sys.argv = ["dqlab", *command]
    gin.clear_config()
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main(command)
    log = os.environ["MOCKED_LOG"]
    told[name] = {"code": code, "out": out.getvalue(), "said": said.getvalue(), "log": ""}
    if os.path.exists(log):
        told[name]["log"] = open(log).read()
        os.remove(log)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every command said, and what the card was asked for."""
    folder = tmp_path_factory.mktemp("machine")
    run_pack(folder / "run", {}, "Experiment.seeds = (0,)", "Training.steps = 20")
    axes = "Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}"
    (folder / "made.gin").write_text(f"include 'gin/quickstart.gin'\n{axes}\n")

    def call(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(args, cwd=folder, env=isolated(folder) | env, capture_output=True, text=True)

    done = Machine(call, folder, cards=2)(sys.executable, "-c", DRIVER, json.dumps(COMMANDS))
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("name", [name for name in COMMANDS if "not there" not in name and "doctor" not in name])
def test_commands_get_to_the_card(told: dict[str, Any], name: str) -> None:
    """The driver of a grid tries a few updates of each kind of pack, to tell how long they take."""
    answer = told[name]
    assert FULL in answer["said"]
    assert "Traceback" not in answer["said"]
    assert answer["code"] == 2
    assert f"memory asked for by dqlab {COMMANDS[name][0]}" in answer["log"]
    assert ("set_device 1" in answer["log"]) is ("second" in name)


def test_a_card_that_is_not_there(told: dict[str, Any]) -> None:
    answer = told["training on a card that is not there"]
    assert answer["code"] == 2
    assert "--device cuda:2: here PyTorch finds CUDA devices up to cuda:1 only" in answer["said"]
    assert len(answer["said"].strip().splitlines()) == 1
    assert not answer["log"]


def test_the_doctor_tries_a_sum_on_the_card(told: dict[str, Any]) -> None:
    assert "this card has none" in json.dumps(json.loads(told["the doctor"]["out"]))
    assert told["the doctor"]["code"] == 1


ENGINES: dict[str, tuple[str, Callable[[], Engine]]] = {
    "local": ("json", lambda: LocalEngine(devices=("0",), retries=0)),
    "slurm": ("submitit", lambda: SlurmEngine(cluster="local", retries=0)),
}
"""Ray's workers are looked at in ablation/test_engines.py."""


@pytest.mark.parametrize("name", ENGINES)
def test_packs_of_every_engine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack's own process gets to the card, and its reason to the driver."""
    needed, make = ENGINES[name]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    machine = Machine(subprocess.run, tmp_path)
    for variable, value in machine.env.items():
        monkeypatch.setenv(variable, value)
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "pack.gin").write_text(pack_text(CELLS, "Experiment.device='cuda'"))
    (end,) = make().run([Job("pack", folder, gpu_memory=1)], lambda job, event: None)
    assert "this card has none" in end.reason
    assert machine.memory_asked_for("worker.py"), machine.log
