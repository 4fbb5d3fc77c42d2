"""dqlab compare: groups by configuration, intervals, warnings, the same from folders and from MLflow."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_folders import folder_of, write_grid, write_reusing, write_run
from made_grids import TASKS, made_grid
from mlflow_stores import fresh_store
from rliable import library, metrics

from dqlab import cli
from dqlab.analysis import compare as compare_module
from dqlab.analysis.compare import ALGORITHM, Comparison, FoundRuns, compare_groups, find_runs, print_comparison
from dqlab.analysis.results import FAILED, CellStatus
from dqlab.printing import Console
from dqlab.tracking.mlflow import client as client_module
from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.sync import send_folder
from dqlab.tracking.selection_rules import SELECTION_RULES

Captured = pytest.CaptureFixture[str]
GRID = made_grid(values=(2, 5), seeds=6)
SMALL = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2)
MADE: dict[str, Any] = {"name": "here", "label": "", "task": TASKS[0], "seed": 0, "caveat": "", "physics": "mujoco210"}
MADE |= {"digest": "a digest", "config": {}, "made_with": {}, "scores": {"last": 1.0}}


def compared(*runs: Path | str, rules: tuple[str, ...] = ("last",)) -> Comparison:
    return compare_groups(find_runs([str(run) for run in runs], None, "", "sqlite:////nowhere.db"), rules)


def rows_of(result: Comparison, *columns: str) -> list[tuple[Any, ...]]:
    """What each row is about, however many figures it has."""
    return list(dict.fromkeys(result.scores[list(columns)].itertuples(index=False, name=None)))


def test_groups_scores_and_intervals_of_a_grid(tmp_path: Path) -> None:
    result = compared(write_grid(tmp_path / "steps", GRID), rules=("last", "offline", "best-online", "mean_last_10"))
    assert [(group["group"], group["name"]) for group in result.groups] == [("A", "N=2"), ("B", "N=5")]
    assert [group["config"] for group in result.groups] == [{"DiffusionPolicy.n_timesteps": steps} for steps in "25"]
    assert result.warnings == ()
    wanted = [(label, task, tuple(range(6))) for label, task in product(GRID.labels, TASKS)]
    assert rows_of(result, "name", "task", "seeds") == wanted
    for (name, task), scores in result.scores.groupby(["name", "task"]):
        figures = scores.set_index(["rule", "metric"])
        assert set(scores.rule) == {*SELECTION_RULES, "best_online minus last"}
        expected = [r.score("last") for r in GRID.results if (r.cell.label, r.cell.task) == (name, task)]
        assert figures.point["last", "mean"] == pytest.approx(np.mean(expected))
        assert figures.point["last", "iqm"] == pytest.approx(np.mean(sorted(expected)[1:-1]))
        gap = figures.loc[("best_online minus last", "mean"), ["point", "low", "high"]]
        assert list(gap) == pytest.approx([3.0] * 3), "best-online is 3 points above"
        np.random.seed(0)
        func = lambda runs: np.array([metrics.aggregate_mean(runs)])  # noqa: E731
        _, bounds = library.get_interval_estimates({"x": np.array(expected)[:, None]}, func, reps=2000)
        assert list(figures.loc[("last", "mean"), ["low", "high"]]) == pytest.approx(bounds["x"][:, 0])


def test_folders_and_mlflow_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid's folder, its packs, its experiment (page by page), and the id of its run; no config.gin twice."""
    monkeypatch.setattr(client_module, "PAGE", 7)
    grid = made_grid(values=(2, 5), seeds=2)
    folder, uri = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path)
    send_folder(folder, uri, "steps")
    client, fetched = mlflow_client(uri), []
    download = client.download_artifacts
    client.download_artifacts = lambda *args: (fetched.append(args[0]), download(*args))[1]
    monkeypatch.setattr(compare_module, "mlflow_client", lambda uri: client)
    experiment = find_runs([], "steps", "", uri)
    assert len(fetched) == 4, "one a configuration and task, however many seeds"
    wanted = compared(folder)
    assert compared(*sorted((folder / "packs").iterdir())).as_dict() == wanted.as_dict()
    assert compared(folder, folder).as_dict() == wanted.as_dict(), "named twice, counted once"
    memories = (folder / "mlflow.json", *folder.glob("packs/*/mlflow.json"))
    top, pack, *_ = (next(iter(json.loads(path.read_text())["runs"].values()))["run"] for path in memories)
    for found in (experiment, find_runs([top], None, "", uri)):
        assert scores_of(compare_groups(found, ["last"])) == scores_of(wanted)
    assert len(find_runs([pack], None, "", uri).runs) == 2
    some = find_runs([], "steps", f"params.N = '5' and tags.task = '{TASKS[0]}'", uri)
    assert {(run["label"], run["task"]) for run in some.runs} == {("N=5", TASKS[0])}


def scores_of(compared: Comparison) -> Any:
    """All scores and configurations, without the groups' letters, which follow the order of runs."""
    rows = [*compared.as_dict()["scores"], *compared.as_dict()["groups"]]
    return sorted((row | {"group": ""} for row in rows), key=json.dumps)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_different_data_physics_and_versions_are_never_pooled_silently(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / name, range(6)) for name in ("one", "other"))
    same = compared(one, other)
    assert len(same.groups) == 1
    assert rows_of(same, "seeds") == [(tuple(range(6)),)], "the same seeds again are no new information"
    assert any("2 runs with seed 0: only the first one counts" in text for text in same.warnings)
    data = json.loads((other / "run.json").read_text())["data"]
    change(other / "run.json", data={**data, "digest": "another"}, versions={"torch": "2.6.0", "dqlab": "0.1.0"})
    result = compared(one, other)
    assert rows_of(result, "data_digest") == [(f"digest of {TASKS[0]}",), ("another",)]
    assert any("the data differ" in text for text in result.warnings)
    assert "Made with different torch: 2.13.0: A; 2.6.0: A." in result.warnings
    for summary in other.glob("*/summary.json"):
        change(summary, physics="modern")
    result = compared(one, other)
    assert len(result.groups) == 2
    assert any("The environments differ" in text for text in result.warnings)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Failures, damaged ones too, runs that go on, tasks and seeds that not every configuration has, few seeds."""
    grid = made_grid(values=(2, 5), seeds=3)
    first, _, *rest = grid.results
    failure = CellStatus(first.cell, FAILED, "diverged", "not finite")
    rest = [result for result in rest if (result.cell.label, result.cell.task) != ("N=5", TASKS[1])]
    pending = tuple(CellStatus(r.cell) for r in grid.results if r not in (first, *rest))
    folder = write_grid(tmp_path / "steps", replace(grid, results=tuple(rest), failures=(failure,), pending=pending))
    (folder_of(folder, first.cell) / "failure.json").write_text("{")
    result = compared(folder)
    assert sorted(result.warnings) == [
        "1 run has failed: left out.",
        "4 runs have not finished: left out.",
        f"Not every configuration was run on every task: {TASKS[0]}: A, B; {TASKS[1]}: A.",
        f"{TASKS[1]}: fewer than 5 seeds: A (3). Such intervals are too narrow.",
        f"{TASKS[0]}: fewer than 5 seeds: A (1), B (3). Such intervals are too narrow; one seed has none.",
        f"{TASKS[0]}: not every configuration has the same seeds.",
    ]
    assert result.scores.low[result.scores.seeds == (2,)].isna().all()
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_cell_that_a_retry_finished_counts_once(tmp_path: Path) -> None:
    """Its first pack lies there still, with what failed and what never ended."""
    folder = write_grid(tmp_path / "steps", SMALL)
    facts = json.loads((folder / "grid.json").read_text())
    first = shutil.copytree(folder / "packs" / facts["packs"][0], folder / "packs" / "first")
    one, other = first.glob("*/summary.json")
    one.unlink()
    other.rename(other.with_name("failure.json"))
    (folder / "grid.json").write_text(json.dumps({**facts, "packs": ["first", *facts["packs"]]}))
    found = find_runs([str(folder)], None, "", "sqlite:////nowhere.db")
    assert (len(found.runs), found.failed, found.unfinished) == (4, 0, 0)


def test_tables_and_other_forms(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = str(write_grid(tmp_path / "steps", made_grid(values=(2, 5), seeds=3)))

    def said(*options: str) -> Any:
        assert cli.main(["compare", folder, *options]) == 0
        return capsys.readouterr()

    shown = said("--rule", "best-online").out
    for text in ("A: N=2", "B: N=5", "n_timesteps", "best-online", "(not D4RL)", "brackets: 95%", "fewer than 5 seeds"):
        assert text in shown
    for text in ("offline", "minus"):
        assert text not in shown, "rules that were not asked for"
    known = json.loads(said("--json").out)["scores"]
    assert {row["task"] for row in known} == set(TASKS)
    sheet = said("--csv")
    row = next(csv.DictReader(sheet.out.splitlines()))
    about = {"name": "N=2", "task": TASKS[0], "seeds": "0 1 2", "rule": "last", "metric": "mean"}
    assert row.items() >= {**about, "low": str(known[0]["low"])}.items()
    assert "fewer than 5 seeds" in sheet.err
    tables = said("--latex").out
    assert tables.count(r"\begin{tabular}") == len(TASKS)
    assert r"A: N=2 & 3 & best-online & " in tables


def test_of_one_seed_nothing_is_said_of_brackets(tmp_path: Path, capsys: Captured) -> None:
    """Of a plain run that an earlier version made: it has no list of replicas."""
    facts = json.loads((write_run(tmp_path / "run") / "run.json").read_text())
    del facts["replicas"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert cli.main(["compare", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "50.0" in said
    assert not [text for text in ("rackets", "[", "ootstrap") if text in said]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "wants folders"),
        (["nowhere"], "There is no folder 'nowhere'"),
        (["."], "is not the folder of a dqlab run or grid"),
        (["empty"], "no run of empty has finished (0 failed, 2 not finished)"),
        (["--experiment", "step"], "has no experiment 'step'. Did you mean 'steps'?"),
        (["--experiment", "steps", "--filter", "params.N ?? 3"], "Invalid clause"),
        (["--experiment", "steps", "--filter", "params.N = '99'"], "with the filter \"params.N = '99'\" has finished"),
        (["--experiment", "steps", "--rule", "lats"], "There is no selection rule 'lats'. Did you mean 'last'?"),
        (["--experiment", "steps", "--rule", "best-onlin"], "rule 'best-onlin'. Did you mean 'best-online'?"),
        (["--filter", "params.N = '5'", "grid"], "--filter belongs to --experiment"),
        (["0" * 32], "0" * 32),
        (["--experiment", "steps", "--uri", "sqlite:///no.db"], "There is no MLflow store sqlite:///no.db"),
        (["--experiment", "steps", "--uri", "http://127.0.0.1:9"], "the server does not answer"),
    ],
)
def test_mistakes(args: list[str], said: str, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.main(["compare", *args]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert (output.err.count("dqlab: error:"), output.out) == (1, "")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded grid and one of which nothing has finished."""
    folder, grid = tmp_path_factory.mktemp("place"), made_grid(values=(5,), tasks=TASKS[:1], seeds=2)
    send_folder(write_grid(folder / "grid", grid), fresh_store(folder), "steps")
    pending = tuple(CellStatus(result.cell) for result in grid.results)
    write_grid(folder / "empty", replace(grid, results=(), pending=pending), state="running")
    return folder


def test_letters_and_differences() -> None:
    runs = [{**MADE, "config": {"x": "1", "y": str(place)} if place else {"x": "1"}} for place in range(703)]
    groups = compare_groups(FoundRuns(runs), ("last",)).groups
    assert [groups[place]["group"] for place in (0, 25, 26, 27, 702)] == ["A", "Z", "AA", "AB", "AAA"]
    assert [group["config"] for group in groups[:2]] == [{"y": "unset"}, {"y": "1"}]
    assert groups[1]["name"] == "y=1"


def test_algorithms_name_groups_and_what_they_alone_have_is_only_counted(capsys: Captured) -> None:
    configs = [
        {ALGORITHM: "iql", "IQL.tau": "0.7", "Training.batch_size": "256"},
        {ALGORITHM: "rebrac", "ReBRAC.actor_bc": "0.1", "ReBRAC.tau": "0.1", "Training.batch_size": "512"},
        {ALGORITHM: "rebrac", "ReBRAC.actor_bc": "0.2", "ReBRAC.tau": "0.2", "Training.batch_size": "512"},
    ]
    compared = compare_groups(FoundRuns([{**MADE, "config": config} for config in configs]), ("last",))
    assert [group["name"] for group in compared.groups] == ["iql", "rebrac, actor_bc=0.1", "rebrac, actor_bc=0.2"]
    print_comparison(compared, Console())
    shown = capsys.readouterr().out
    assert "1 parameter that one configuration alone has" in shown
    assert "ReBRAC.tau" in shown
    assert "IQL.tau" not in shown


def test_what_came_later_is_said_of_runs_that_are_as_before_it_came(capsys: Captured) -> None:
    """Of every algorithm where it is everybody's, as chunks of one action are; nothing of another algorithm's own."""
    chunks = {ALGORITHM: "fql", "FQL.tau": "0.1", "FQL.joint_update": "True", "Experiment.action_chunk": "5"}
    configs = [{ALGORITHM: "rebrac", "ReBRAC.tau": "0.1"}, chunks]
    compared = compare_groups(FoundRuns([{**MADE, "config": config} for config in configs]), ("last",))
    plain, chunked = (group["config"] for group in compared.groups)
    assert (plain["Experiment.action_chunk"], chunked["Experiment.action_chunk"]) == ("1", "5")
    assert plain["FQL.joint_update"] == "unset"
    print_comparison(compared, Console())
    assert "Experiment.action_chunk" in capsys.readouterr().out


def test_reused_cells_are_compared_under_this_grids_labels(tmp_path: Path) -> None:
    """From another grid's folder, where they have another label; one that is gone is told of."""
    wanted = compared(write_grid(tmp_path / "whole", GRID))
    other = write_grid(tmp_path / "other", GRID)
    for facts in other.glob("packs/*/run.json"):
        facts.write_text(facts.read_text().replace('"cell": "N=', '"cell": "another label, N='))
    folder = write_reusing(tmp_path / "steps", GRID, other, [r.cell for r in GRID.results[:8]])
    assert scores_of(compared(folder)) == scores_of(wanted)
    assert compared(folder).warnings == ()
    lost = folder_of(other, GRID.results[0].cell)
    lost.rename(tmp_path / "away")
    said = compared(folder).warnings
    assert said[0].startswith(f"Left out: {lost} is gone, from which a cell was reused.")
    assert not any("not finished" in text for text in said)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", '{"task": "a", "sel'),
        ("summary.json", '{"task": "a", "caveat": "", "physics": "", "selection": []}'),
        ("run.json", '{"task": 1, "data": 2, "versions": 3, "replicas": 4}'),
        ("grid.json", "{}"),
    ],
)
def test_damaged_records_are_named(name: str, text: str, tmp_path: Path, capsys: Captured) -> None:
    """And left out, but for a grid's own."""
    folder = write_grid(tmp_path / "steps", SMALL)
    path, *others = sorted(folder.rglob(name))
    path.write_text(text)
    if name != "grid.json":
        result = compared(folder)
        assert rows_of(result, "name", "seeds")[-1] == ("N=5", (0, 1))
        assert [f"Left out: {path} is damaged" in told for told in result.warnings].count(True) == 1
        assert not any("not finished" in told for told in result.warnings)
    for other in others:
        other.write_text(text)
    assert cli.main(["compare", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said
    assert said.count("\n") == 1
