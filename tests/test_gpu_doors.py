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
    "evaluation": ["eval", "run"],
    "a figure": ["figure", "bandit", "--steps", "10"],
    "a grid": ["ablate", "--grid", "made.gin", "--device", "cuda", "--set", *TINY],
}
"""`auto`, which is a card here, where nothing is said of a device."""
OTHERS = {"no such card": [*TRAIN, "--device", "cuda:2", *bindings()], "the doctor": ["doctor", "--json"]}
DRIVER = """
import contextlib, io, json, os, sys
import gin
from dqlab.cli import main
told, log = {}, os.environ["MOCKED_LOG"]
for name, command in json.loads(sys.argv[1]).items():
    sys.argv = ["dqlab", *command]
    gin.clear_config()
    out, said = io.StringIO(), io.StringIO()
    open(log, "w").close()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main(command)
    told[name] = {"code": code, "out": out.getvalue(), "said": said.getvalue(), "log": open(log).read()}
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

    done = Machine(call, folder, cards=2)(sys.executable, "-c", DRIVER, json.dumps({**COMMANDS, **OTHERS}))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_get_to_the_card(told: dict[str, Any], name: str) -> None:
    """The driver of a grid tries a few updates of each kind of pack, to tell how long they take."""
    answer = told[name]
    assert FULL in answer["said"]
    assert "Traceback" not in answer["said"]
    assert answer["code"] == 2
    assert f"memory asked for by dqlab {COMMANDS[name][0]}" in answer["log"]
    assert ("set_device 1" in answer["log"]) is ("second" in name)


def test_a_card_that_is_not_there_and_a_doctor_that_tries_a_sum_on_one(told: dict[str, Any]) -> None:
    answer = told["no such card"]
    (said,) = answer["said"].strip().splitlines()
    assert "--device cuda:2: here PyTorch finds CUDA devices up to cuda:1 only" in said
    assert (answer["code"], answer["log"]) == (2, "")
    assert "this card has none" in json.dumps(json.loads(told["the doctor"]["out"]))
    assert told["the doctor"]["code"] == 1


@pytest.mark.parametrize(
    ("needed", "make"),
    [
        ("json", lambda: LocalEngine(devices=("0",), retries=0)),
        ("submitit", lambda: SlurmEngine(cluster="local", retries=0)),
    ],
)
def test_packs_of_every_engine(
    needed: str, make: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack's own process gets to the card, and its reason to the driver. Ray's: ablation/test_engines.py."""
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
    asked = [line for line in machine.log.read_text().splitlines() if line.startswith("memory asked for")]
    assert any("worker.py" in line for line in asked), asked
