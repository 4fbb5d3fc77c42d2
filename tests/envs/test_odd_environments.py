"""A user's environment that goes wrong, at every door: the real commands, on training and collecting."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from conftest import ROOT, Done, Run
from made_environments import write_odd
from made_packs import records
from mlflow.tracking import MlflowClient
from mlflow_stores import fresh_store

from dqlab.tracking.mlflow.sync import send_folder
from dqlab.tracking.run_folder import RunFolder
from dqlab.training import checkpoint


@pytest.fixture
def odd(in_process: Run, dqlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command with the environment going wrong as `ODD` and its like say, its module imported anew."""
    gin = write_odd(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(command: str, *args: str, fresh: bool = False, **variables: str) -> Done:
        chosen = {"train": ["--gin", str(gin), "--out", "run", "-q"]}.get(command, [])
        if fresh:
            return dqlab(command, *chosen, *args, env={"PYTHONPATH": f"{tmp_path}:{ROOT}", **variables})
        forget_odd()
        return in_process(command, *chosen, *args, env=variables)

    yield run
    forget_odd()


def forget_odd() -> None:
    sys.modules.pop("odd", None)
    gymnasium.registry.pop("Odd-v0", None)


def told(done: Done, *parts: str) -> str:
    """The one line of an error, which has these parts, with exit code 2."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("dqlab: error: ")]
    assert (done.returncode, len(errors), "Traceback" in done.stderr) == (2, 1, False), done.stderr
    assert all(part in errors[0] for part in parts), errors[0]
    return errors[0]


def finished(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    return done


def state(run: Path) -> str:
    return str(RunFolder(run).facts()["state"])


def in_mlflow(run: Path) -> tuple[str, float | None, float | None]:
    """Status, last evaluation's score and final score of a run's only replica, sent to a store beside it."""
    uri = f"sqlite:///{run.parent}/mlflow.db"
    uri = uri if (run.parent / "mlflow.db").exists() else fresh_store(run.parent)
    send_folder(run, uri, "odd")
    at = MlflowClient(tracking_uri=uri)
    runs = at.search_runs([at.get_experiment_by_name("odd").experiment_id])
    (child,) = (each for each in runs if "mlflow.parentRunId" in each.data.tags)
    known = child.data.metrics
    return child.info.status, known.get("score/mean"), known.get("score/last")


def test_an_evaluation_without_a_score_is_left_out_and_said(odd: Run, tmp_path: Path) -> None:
    """The first of two evaluations, of two episodes each."""
    done = finished(odd("train", ODD="nan_observation", ODD_UNTIL="2"))
    said = "dqlab: warning: The evaluation of seed 0 after 20 updates failed: the environment 'odd:Odd-v0' gives"
    assert said in done.stderr
    summary = json.loads((tmp_path / "run" / "seed-0" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert {row["step"] for row in summary["selection"].values()} == {40, None}
    assert [each["step"] for each in summary["evaluations"]] == [40]
    (failed,) = summary["failed_evaluations"]
    assert failed["step"] == 20
    assert "NaN or infinite" in failed["reason"]
    assert "at step 3 of the episode with seed" in failed["reason"]
    weights = (tmp_path / "run" / "seed-0" / "checkpoints").glob("*.safetensors")
    assert sorted(path.stem for path in weights) == ["step-000000020", "step-000000040"]
    assert state(tmp_path / "run") == "finished"


def test_a_last_evaluation_without_a_score_is_a_failure_that_a_resume_mends(odd: Run, tmp_path: Path) -> None:
    said = "The last evaluation of seed 0, after 40 updates, failed: the environment 'odd:Odd-v0' gives a NaN"
    told(odd("train", ODD="infinite_reward", ODD_AFTER="2"), said)
    run = tmp_path / "run"
    assert state(run) == "failed"
    assert RunFolder(run).failure(RunFolder(run).replicas()[0])["kind"] == "evaluation"
    assert not (run / "seed-0" / "summary.json").exists()
    assert in_mlflow(run)[0] == "FAILED"
    finished(odd("train", "--resume"))
    assert state(run) == "finished"
    assert not (run / "seed-0" / "failure.json").exists()
    finished(odd("train", "--out", "whole"))
    assert records(run, "seed-0") == records(tmp_path / "whole", "seed-0")
    score = json.loads((run / "seed-0" / "summary.json").read_text())["selection"]["last"]["score_mean"]
    assert in_mlflow(run) == ("FINISHED", pytest.approx(score), pytest.approx(score))
    broken = "The evaluation of seed 0 after 40 updates failed: the environment 'odd:Odd-v0' gives"
    told(odd("eval", "run", ODD="infinite_reward"), broken)


def test_one_replica_whose_last_evaluation_failed_is_mended_by_a_resume(odd: Run, tmp_path: Path) -> None:
    """Of two, whose last evaluations are episodes 5 to 8; the other one has its result, before and after."""
    said = "1 of 2 replicas failed (seed 1). The last evaluation of seed 1, after 40 updates, failed"
    told(odd("train", "--seeds", "0", "1", ODD="nan_observation", ODD_AFTER="6"), said)
    run = tmp_path / "run"
    assert state(run) == "finished"
    before = (run / "seed-0" / "summary.json").read_text()
    finished(odd("train", "--seeds", "0", "1", "--resume"))
    assert (run / "seed-0" / "summary.json").read_text() == before
    assert (run / "seed-1" / "summary.json").exists()
    told(odd("train", "--seeds", "0", "1", "--resume"), "there is nothing to resume")


def test_an_environment_that_raises_ends_the_run_which_can_go_on(odd: Run, tmp_path: Path) -> None:
    """`SystemExit` included; other errors are told alike (test_checked_env.py)."""
    parts = ("after 20 updates", "'odd:Odd-v0' raised SystemExit: no licence", "odd.py:", "at step 3 of an episode")
    said, run = told(odd("train", ODD="exit", fresh=True), *parts), tmp_path / "run"
    assert state(run) == "interrupted"
    assert RunFolder(run).facts()["reason"] in said
    assert checkpoint.read_checkpoint(run / "checkpoint.safetensors")[1]["step"] == 20
    finished(odd("train", "--resume"))
    assert state(run) == "finished"


def test_nothing_wrong_is_collected(odd: Run, tmp_path: Path) -> None:
    sets: list[Any] = ["Collection.task=''", "Collection.env_id='odd:Odd-v0'", "Collection.episodes=3"]
    sets += ["Collection.mixture={'random': 1.0}", "Collection.reference_scores=(0.0, 1.0)"]
    args = ("--gin", str(ROOT / "gin/collect/random.gin"), "--set", "Collection.transitions=0", *sets)
    for fault in ("infinite_reward", "exit"):
        told(odd("collect", *args, ODD=fault), "The environment 'odd:Odd-v0'", "at step 3 of an episode with seed")
        assert not list((tmp_path / "collected").rglob("*.hdf5"))
    finished(odd("collect", *args))
