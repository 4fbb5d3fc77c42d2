"""One run that trains a pack of cells: each as alone, a diverging one without the others, stopped and continued."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from conftest import Run
from made_packs import BROKEN, CELLS, cell, check_same, records, run_pack, summary

from dqlab.config import gin_files
from dqlab.errors import ConfigError, RunError, StoppedError
from dqlab.runs import Experiment, train
from dqlab.runs.experiment import check_experiment

ONE = "Training.eval_episodes=1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "whole"
    run_pack(folder, CELLS, ONE)
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A run of which one cell diverges, and its events."""
    folder, events = tmp_path_factory.mktemp("packs") / "broken", list[Any]()
    finished = run_pack(folder, BROKEN, ONE, tell=events.append)
    assert set(finished.summaries) == {"cell-a", "cell-c"}
    with pytest.raises(RunError, match=r"1 of 3 replicas failed \(eta=9.0, seed 0\)"):
        finished.check_complete()
    return folder, events


def test_each_cell_is_what_it_is_alone(whole: Path, tmp_path: Path) -> None:
    """By the configuration that lies in its own folder; the third shares its seed with one, its scalars with one."""
    for name in ("cell-a", "cell-c"):
        alone = tmp_path / name
        train(gin_files.load_gin([whole / name / "config.gin"]), alone, quiet=True)
        check_same(whole, name, alone, f"seed-{CELLS[name]['seed']}")
    assert records(whole, "cell-b") not in (records(whole, "cell-a"), records(whole, "cell-c"))


def test_cells_are_evaluated_by_seed(whole: Path, in_process: Run) -> None:
    facts = json.loads((whole / "run.json").read_text())
    assert (facts["seeds"], facts["replicas"]) == ([0, 3], CELLS)
    of_b = summary(whole, "cell-b")
    assert (of_b["cell"], of_b["points"], of_b["seed"], of_b["steps"]) == ("eta=2.0", {"eta": "2.0"}, 0, 60)
    shown = in_process("eval", str(whole), "--seed", "0", "--checkpoint", "best").stdout
    score = summary(whole, "cell-a")["selection"]["best_online"]["score_mean"]
    assert all(text in shown for text in ("eta=0.5, seed 0", "eta=2.0, seed 0", f"{score:.1f}"))
    assert "seed 3" not in shown


def test_a_diverging_cell_ends_alone(whole: Path, broken: tuple[Path, list[Any]]) -> None:
    folder, events = broken
    for name in ("cell-a", "cell-c"):
        check_same(folder, name, whole)
    failure = json.loads((folder / "cell-x" / "failure.json").read_text())
    assert (failure["kind"], failure["step"]) == ("diverged", 10)
    assert "critic/loss of eta=9.0, seed 0 became NaN or infinite before step 10" in failure["reason"]
    assert "\n" not in failure["reason"]
    assert not (folder / "cell-x" / "summary.json").exists()
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    assert {"event": "cell_failed", "replica": "cell-x", "reason": failure["reason"]} in events
    assert events[0] == {"event": "started", "step": 0, "steps": 60, "execution": "eager"}
    by_name = {name: [e for e in events if e["event"] == name] for name in {e["event"] for e in events}}
    assert [e["step"] for e in by_name["progress"]] == [10, 20, 30, 40, 50, 60]
    assert all(e["updates_per_second"] > 0 for e in by_name["progress"])
    assert [e["step"] for e in by_name["saved"]] == [0, 0, 20, 20, 40, 40, 60, 60]  # before and after
    assert [set(e["scores"]) for e in by_name["evaluated"]] == [set(BROKEN)] + [{"cell-a", "cell-c"}] * 3
    last = summary(folder, "cell-a")["selection"]["last"]["score_mean"]
    assert by_name["evaluated"][-1]["scores"]["cell-a"] == last


def test_a_failure_survives_a_stop(broken: tuple[Path, list[Any]], tmp_path: Path) -> None:
    """Stopped at the first log after it, which no evaluation's checkpoint precedes; continued to the same end."""
    stop, folder, events = Event(), tmp_path / "stopped", list[Any]()

    def tell(event: Any) -> None:
        if event["event"] == "cell_failed":
            stop.set()

    with pytest.raises(StoppedError, match="stopped at step 10"):
        run_pack(folder, BROKEN, ONE, tell=tell, stop=stop)
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    finished = run_pack(folder, BROKEN, ONE, resume=True, tell=events.append)
    assert events[0]["step"] == 10
    assert set(finished.failures) == {"cell-x"}
    assert "cell_failed" not in {event["event"] for event in events}
    for name in ("cell-a", "cell-c"):
        check_same(folder, name, broken[0])


def test_a_policy_that_breaks_in_an_evaluation_ends_alone(tmp_path: Path) -> None:
    """The losses of its only update were finite."""
    every = "Training.eval_every=1", "Training.log_every=1", "Training.steps=1", "Training.evaluate_untrained=False"
    good = {"cell-a": CELLS["cell-a"]}
    finished = run_pack(tmp_path / "both", {"cell-x": BROKEN["cell-x"], **good}, *every)
    run_pack(tmp_path / "one", good, *every)
    reason = finished.failures["cell-x"]["reason"]
    assert reason.startswith("The evaluation of eta=9.0, seed 0 after 1 updates failed: its policy gives NaN or infin")
    check_same(tmp_path / "both", "cell-a", tmp_path / "one")


def test_a_run_of_which_nothing_is_left(tmp_path: Path) -> None:
    """It is not continued blindly."""
    with pytest.raises(RunError, match="2 of 2 replicas failed"):
        run_pack(tmp_path / "run", {"x": BROKEN["cell-x"], "y": cell(1.0, 1, set=BROKEN["cell-x"]["set"])})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
    with pytest.raises(RunError, match="has failed, and would again: critic/loss of eta=9.0, seed 0 became NaN"):
        run_pack(tmp_path / "run", BROKEN, resume=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 0, "set": {"DiffusionQL.ema_every": 2}}, "sets DiffusionQL.ema_every, which is no scalar"),
        ({"seed": 0, "set": {"SoftmaxQ.temperature": 2.0}}, "which is no scalar hyper-parameter of 'diffusion_ql'"),
        ({"seed": 0, "set": {"IQL.tau": 0.1}}, "sets IQL.tau, which is no scalar"),
        ({"seed": 0, "set": {"DiffusionQL.eta": "high"}}, r"replicas\['it'\]: DiffusionQL.eta must be of type float"),
        ({"seed": 0, "set": {"DiffusionQL.eta": -1.0}}, r"replicas\['it'\]: DiffusionQL.eta must be at least 0"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": 0, "sets": {}}, "must be {'seed': ..., 'cell': ..., 'points': ..., 'set': ...}, not {'seed': 0, 's"),
        ({"cell": "N=1"}, "must be {'seed'"),
        (3, "must be {'seed'"),
    ],
)
def test_mistakes_in_a_pack_are_told_before_training(given: Any, message: str) -> None:
    gin_files.load_gin(["gin/quickstart.gin"], [f"Experiment.replicas={ {'it': given}!r}"])
    with pytest.raises(ConfigError, match=message):
        check_experiment(Experiment())


def test_names_of_scalars_may_be_written_as_in_any_gin_file() -> None:
    given = {"it": {"seed": 0, "set": {"algorithm.DiffusionQL.eta": 2}}}
    gin_files.load_gin(["gin/quickstart.gin"], [f"Experiment.replicas={given!r}"])
    experiment = Experiment()
    assert experiment.algorithm_of(experiment.resolved_replicas[0]).hyper()["eta"] == 2.0
    assert experiment.resolved_algorithm.hyper()["eta"] == 1.0
