"""Phases of training: what is trained when, what a network starts as, and an algorithm written from the docs alone."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, TINY
from hypothesis import given
from hypothesis import strategies as st
from made_packs import records
from made_updates import DIMS, random_transitions

import dqlab as library
from dqlab.algorithms import algorithms
from dqlab.algorithms.base import TrainedNetwork
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.bdpo import BDPO
from dqlab.algorithms.td3_bc import TD3BC
from dqlab.config.plugins import load_one
from dqlab.errors import ConfigError
from dqlab.runs.experiment import check_phases
from dqlab.runs.export import export_policy
from dqlab.testing import check
from dqlab.training import Pack, checkpoint
from dqlab.training.execution.modes import Eager
from dqlab.training.probe import flops_of_updates
from dqlab.training.programs import Step

BEHAVIOUR, CRITICS, ACTOR = range(5), range(5, 9), range(9, 14)


@pytest.fixture(autouse=True)
def small() -> None:
    gin.parse_config([*SMALL, "BDPO.pretrain_steps = 5", "BDPO.warmup_steps = 4", "BDPO.learning_rate = 1e-3"])


@pytest.mark.parametrize("width", [1, 2])
def test_networks_and_targets_move_in_their_phase_alone(width: int) -> None:
    """The behaviour model in 0..4, critics and V in 5..8, the actor at every second step from 9 on.

    Adam's first step is the learning rate long, whichever step it falls on: its corrections count from there.
    """
    pack, seen = Pack([BDPO()] * 2, DIMS, (0, 1), dtype=torch.float64, width=width), []
    step = Step(pack, random_transitions(100), 8, Eager(), 14)
    for number in range(15):
        seen.append({name: each.clone() for name, each in {**pack.state.parameters, **pack.state.targets}.items()})
        if number < 14:
            step()
    moved = {
        name: [step for step in range(14) if bool((seen[step + 1][name] != seen[step][name]).any(dim=1).all())]
        for name in seen[0]
    }
    both, trained = [*BEHAVIOUR], [*CRITICS, *ACTOR]
    actor = [step for step in ACTOR if step % 2]
    assert moved["behaviour"] == moved["behaviour_ema"] == both
    assert moved["critic"] == moved["critic_target"] == moved["value"] == moved["value_target"] == trained
    assert moved["actor"] == moved["actor_ema"] == both + actor  # it follows until its phase begins
    assert float((seen[10]["actor"] - seen[9]["actor"]).abs().max()) == pytest.approx(1e-3, rel=1e-3)
    for number, now in enumerate(seen):
        same = torch.equal(now["actor"], now["behaviour_ema"]), torch.equal(now["actor_ema"], now["behaviour_ema"])
        assert same == (number <= ACTOR[0],) * 2
    assert not torch.equal(seen[14]["behaviour_ema"], seen[14]["behaviour"])
    assert all(bool(each.any()) for both in pack.state.moments.values() for each in both)


@pytest.mark.parametrize(("every", "first"), [(1, 0), (1, 5), (2, 5), (2, 6), (3, 7)])
def test_updates_are_counted_from_the_phases_beginning(every: int, first: int) -> None:
    network = TrainedNetwork(lambda *_: None, "rate", every=every, first=first, last=20)  # type: ignore[arg-type, return-value]
    steps = [step for step in range(30) if network.updates_at(step)]
    assert steps == [step for step in range(first, 20) if (step + 1) % every == 0]
    assert [network.update_count(step) for step in steps] == list(range(1, len(steps) + 1))


def test_arithmetic_is_counted_phase_by_phase() -> None:
    """And by what rests: the actor at 10 and 12."""
    pack = Pack([BDPO()], DIMS, [0])
    each = [flops_of_updates(pack, 8, range(step, step + 1)) for step in (0, 5, 9)]
    assert each[0] < each[1] < each[2]
    assert flops_of_updates(pack, 8, range(2, 14)) == 3 * each[0] + (4 + 2) * each[1] + 3 * each[2]
    assert pack.kinds(range(2, 14)) == {2: 3, 5: 4, 9: 3, 10: 2}


@given(every=st.lists(st.integers(1, 8), min_size=1, max_size=4), first=st.integers(0, 9), steps=st.integers(0, 60))
def test_kinds_of_updates_are_those_of_a_plain_loop(every: list[int], first: int, steps: int) -> None:
    pack = object.__new__(Pack)
    pack.trained = {f"n{at}": TrainedNetwork(str, "rate", every=each) for at, each in enumerate(every)}  # type: ignore[arg-type]
    pack.trained["late"] = TrainedNetwork(str, "rate", every=2, first=first)  # type: ignore[arg-type]
    wanted: dict[int, int] = {}
    for stretch in pack.stretches(range(3, 3 + steps)):
        firsts: dict[tuple[str, ...], int] = {}
        for step in stretch:
            kind = firsts.setdefault(pack.updating_at(step), step)
            wanted[kind] = wanted.get(kind, 0) + 1
    assert pack.kinds(range(3, 3 + steps)) == wanted


def test_an_evaluation_while_the_actor_rests(tmp_path: Path) -> None:
    """It counts in every selection rule: the seventh update is the critics' alone, so the loss is the one before."""
    few = [line for line in TINY if not line.startswith(("MLP", "SoftmaxQ"))]
    rule = ["include 'gin/quickstart.gin'", *few, "Experiment.algorithm = 'td3_bc'", "Training.eval_every = 3"]
    (tmp_path / "it.gin").write_text("\n".join(rule))
    run = library.train(tmp_path / "it.gin", steps=7, out=tmp_path / "run", quiet=True)
    losses = {
        step: each["eval/selection_loss"]
        for step, each in records(run.path, "seed-0")
        if each.get("eval/selection_loss")
    }
    assert list(losses) == [3, 6, 7]
    assert losses[6] == losses[7] != losses[3]
    summary = json.loads((run.path / "seed-0" / "summary.json").read_text())
    assert summary["selection"]["last"]["step"] == 7


def test_a_network_that_rests_reports_nothing(tmp_path: Path) -> None:
    """The actor learns at the second, fourth and sixth update: means are of these, whatever the log's distance."""
    few = [line for line in TINY if not line.startswith(("MLP", "SoftmaxQ"))]
    rule = ["include 'gin/quickstart.gin'", *few, "Experiment.algorithm = 'td3_bc'", "Training.eval_every = 6"]
    logged = {}
    for every in (1, 3):
        (tmp_path / "it.gin").write_text("\n".join([*rule, f"Training.log_every = {every}"]))
        run = library.train(tmp_path / "it.gin", steps=6, out=tmp_path / f"every-{every}", quiet=True)
        logged[every] = {step: metrics for step, metrics in records(run.path, "seed-0") if losses_of(metrics)}
    for loss in ("actor/loss", "actor/bc_loss"):
        single = {step: metrics[f"train/{loss}"] for step, metrics in logged[1].items() if f"train/{loss}" in metrics}
        assert single.keys() == {2, 4, 6}
        means = [metrics[f"train/{loss}"] for metrics in logged[3].values()]
        assert means == pytest.approx([single[2], (single[4] + single[6]) / 2])
    last = dict(records(tmp_path / "every-3", "seed-0"))[6]
    assert last["eval/selection_loss"] == pytest.approx(sum(single.values()) / 3)


@dataclass(frozen=True)
class Phased(BehaviourCloning):
    """Behaviour cloning of one actor, with another network of another shape, and phases as they are given."""

    last: int = 3
    first: int = 3
    starts_as: str | None = None
    built: str = "other"
    rate: str = "learning_rate"

    def build(self, dims: Any) -> Any:
        return {**super().build(dims), self.built: torch.nn.Linear(2, 2)}

    def trained(self, dims: Any) -> Any:
        (actor,) = super().trained(dims).values()
        own = {"first": self.first, "starts_as": self.starts_as, "learning_rate": self.rate}
        other = replace(actor, loss=partial(self._other, dims), **own)
        return {"actor": replace(actor, last=self.last), "other": other}

    def _other(self, dims: Any, nets: Any, *_: Any) -> Any:
        loss = nets["other"](torch.ones(2, 2, dtype=torch.float64)).mean()
        return loss, {"other/loss": loss.detach()}


@pytest.mark.parametrize(
    ("wrong", "steps", "message"),
    [
        (Phased(last=2, first=3), 4, r"Phased trains no network at step 2\."),
        (Phased(last=0, first=0), 4, r"never trains 'actor': its phase ends before it begins"),
        (Phased(starts_as="actor"), 4, r"'other' start as 'actor', which is no network or target of the same layout"),
        (Phased(starts_as="nobody"), 4, r"'other' start as 'nobody', which is no network"),
        (Phased(built="othr"), 4, r"Phased trains 'other'\. `build` makes no network of that name\. .*'othr'"),
        (Phased(rate="value_lr"), 4, r"Phased has no hyper-parameter 'value_lr'\. Known: learning_rate"),
        (Phased(), 4, r"'actor', whose loss .* up to step 3, but Training\.steps = 4 go on"),
        (TD3BC(policy_every=20), 10, r"'actor' at every 20th step only, and at none of Training\.steps = 10"),
        (BDPO(pretrain_steps=5, warmup_steps=4), 9, r"trains 'actor' from step 9 on, but Training\.steps = 9 end b"),
    ],
)
def test_phases_that_cannot_be(wrong: Any, steps: int, message: str) -> None:
    check_phases(BDPO(), DIMS, 10)
    with pytest.raises(ConfigError, match=message):
        check_phases(Pack([wrong], DIMS, [0]).algorithm, DIMS, steps)


def losses_of(metrics: dict[str, float]) -> set[str]:
    return {name.removeprefix("train/") for name in metrics if name.startswith("train/") and "per_second" not in name}


def test_the_algorithm_of_the_docs_conforms_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in docs/contracts.md. The clone's phase ends at 25, between two logs and two evaluations."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "contracts.md").read_text(), re.S)
    (tmp_path / "two_stages.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    load_one("two_stages")
    try:
        gin.parse_config("TwoStages.clone_steps = 6")
        check("algorithm", "two_stages")
        check_two_stages(tmp_path)
    finally:
        algorithms.remove("two_stages")
        sys.modules.pop("two_stages", None)


def check_two_stages(folder: Path) -> None:
    """What is logged and evaluated when, and that the policy is exported."""
    few = [line for line in TINY if not line.startswith(("MLP", "SoftmaxQ"))]
    few += ["Experiment.algorithm = 'two_stages'", "TwoStages.clone_steps = 25", "DeterministicPolicy.hidden_dim = 8"]
    lines = ["include 'gin/quickstart.gin'", *few, "Training.evaluate_untrained = False"]
    (folder / "stages.gin").write_text("\n".join(lines))
    run = library.train(folder / "stages.gin", seeds=[0, 1], steps=40, out=folder / "run", quiet=True)
    logged = {step: losses_of(metrics) for step, metrics in records(run.path, "seed-1") if losses_of(metrics)}
    first, second = {"clone/bc_loss"}, {"critic/loss", "critic/target_q", "actor/loss", "actor/distance"}
    assert logged == {**dict.fromkeys((10, 20, 25), first), **dict.fromkeys((30, 40), second)}
    evaluations = checkpoint.read_checkpoint(run.path / "checkpoint.safetensors")[1]["evaluations"]["seed-1"]
    assert [(each["step"], set(each["losses"])) for each in evaluations] == [(20, first), (40, second)]
    assert evaluations[0]["selection_loss"] is None
    assert json.loads((run.path / "seed-1" / "summary.json").read_text())["selection"]["best_online"]["step"] == 40
    export_policy(run.path / "seed-1", folder / "out", "torch", "last")
    states = np.zeros((3, 17), np.float32)
    exported, policy = (library.load_policy(place) for place in (folder / "out", run.path / "seed-1"))
    np.testing.assert_array_equal(exported(states), policy(states))
