"""Every command that computes on a GPU, where the card has no memory: it gets as far as the first tensor there.

Real commands in processes of their own; `mocked_card/sitecustomize.py` answers for the driver.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import TINY, bindings
from made_packs import CELLS, pack_text
from mocked_machine import Machine, Run
from ray_cluster import Cluster

from dqlab.ablation.engines.base import Engine, Job
from dqlab.ablation.engines.local import LocalEngine
from dqlab.ablation.engines.ray import RayEngine
from dqlab.ablation.engines.slurm import SlurmEngine

FULL = "not enough memory (CUDA out of memory: this card has none.)"


@pytest.fixture
def machine(dqlab: Run, tmp_path: Path) -> Machine:
    return Machine(dqlab, tmp_path)


@pytest.fixture
def trained(dqlab: Run) -> str:
    """A run of this machine's CPU."""
    done = dqlab("train", "--gin", "gin/quickstart.gin", "--steps", "20", "--out", "run", *bindings())
    assert done.returncode == 0, done.stderr
    return "run"


def refused_by_the_card(done: subprocess.CompletedProcess[str]) -> None:
    assert FULL in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_training(machine: Machine) -> None:
    """On the card, which is what `auto` chooses."""
    refused_by_the_card(machine("train", "--gin", "gin/quickstart.gin", *bindings()))
    assert machine.memory_asked_for("train")


def test_training_on_the_second_card(dqlab: Run, tmp_path: Path) -> None:
    machine = Machine(dqlab, tmp_path, cards=2)
    refused_by_the_card(machine("train", "--gin", "gin/quickstart.gin", "--device", "cuda:1", *bindings()))
    assert "set_device 1" in machine.log


def test_a_card_that_is_not_there(machine: Machine) -> None:
    done = machine("train", "--gin", "gin/quickstart.gin", "--device", "cuda:1", *bindings())
    assert done.returncode == 2
    assert "--device cuda:1: the last" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not machine.log


def test_evaluation(machine: Machine, trained: str) -> None:
    """As in training, without `--device`: `auto`, which is the card here."""
    refused_by_the_card(machine("eval", trained))
    assert machine.memory_asked_for("eval")


def test_a_figure(machine: Machine) -> None:
    refused_by_the_card(machine("figure", "bandit", "--steps", "10"))
    assert machine.memory_asked_for("figure")


def test_the_doctor(machine: Machine) -> None:
    """It tries a sum on the card, and says what came of it."""
    done = machine("doctor", "--json")
    found = json.dumps(json.loads(done.stdout))
    assert "this card has none" in found
    assert done.returncode == 1


def test_a_grid(machine: Machine, tmp_path: Path) -> None:
    """The driver tries a few updates of each kind of pack, to tell how long they take."""
    text = "include 'gin/quickstart.gin'\nGrid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}\n"
    (tmp_path / "made.gin").write_text(text)
    refused_by_the_card(machine("ablate", "--grid", "made.gin", "--device", "cuda", "--set", *TINY))
    assert machine.memory_asked_for("ablate")


ENGINES: dict[str, Callable[[str], Engine]] = {
    "local": lambda address: LocalEngine(devices=("0",), retries=0),
    "slurm": lambda address: SlurmEngine(cluster="local", retries=0),
    "ray": lambda address: RayEngine(address, retries=0),
}


@pytest.fixture
def address(machine: Machine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a cluster whose node has the card, too, for the engine that wants one."""
    pytest.importorskip({"slurm": "submitit", "ray": "ray"}.get(request.param, "json"))
    for name, value in machine.env.items():
        monkeypatch.setenv(name, value)
    if request.param != "ray":
        yield ""
        return
    with closing(Cluster()) as cluster:
        yield cluster.address


@pytest.mark.parametrize(("address", "name"), [(name, name) for name in ENGINES], indirect=["address"])
def test_packs_of_every_engine(machine: Machine, address: str, name: str, tmp_path: Path) -> None:
    """A pack's own process gets to the card, and its reason to the driver."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "pack.gin").write_text(pack_text(CELLS, "Experiment.device='cuda'"))
    (end,) = ENGINES[name](address).run([Job("pack", folder, gpu_memory=1)], lambda job, event: None)
    assert "this card has none" in end.reason
    assert machine.memory_asked_for("worker.py"), machine.log
