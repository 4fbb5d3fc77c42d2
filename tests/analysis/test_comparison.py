"""dqlab compare: groups by configuration, intervals, warnings, the same from folders and from MLflow."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_folders import folder_of, write_grid, write_reusing
from made_grids import TASKS, made_grid
from mlflow_stores import fresh_store
from rliable import library, metrics

from dqlab import cli
from dqlab.analysis import finished_runs
from dqlab.analysis.compare import Comparison, compare_groups, describe_groups, group_runs
from dqlab.analysis.finished_runs import find_runs
from dqlab.analysis.results import FAILED, CellStatus, GridResults
from dqlab.tracking.mlflow import client as client_module
from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.sync import send_folder
from dqlab.tracking.selection_rules import SELECTION_RULES

Run = Callable[..., Any]
GRID = made_grid(values=(2, 5), seeds=6)
MADE: dict[str, Any] = {"name": "here", "label": "", "task": TASKS[0], "seed": 0, "caveat": "", "physics": "mujoco210"}
MADE |= {"digest": "a digest", "config": {}, "made_with": {}, "scores": {"last": 1.0}}


def compared(*runs: Path | str, rules: tuple[str, ...] = ("last",)) -> Comparison:
    return compare_groups(find_runs([str(run) for run in runs], None, "", "sqlite:////nowhere.db"), rules)


def rows_of(result: Comparison, *columns: str) -> list[tuple[Any, ...]]:
    """What each row is about, however many figures it has."""
    return list(dict.fromkeys(result.scores[list(columns)].itertuples(index=False, name=None)))


def scores_of(grid: GridResults, label: str, task: str, rule: str) -> list[float]:
    return [r.score(rule) for r in grid.results if (r.cell.label, r.cell.task) == (label, task)]


def test_groups_scores_and_intervals_of_a_grid(tmp_path: Path) -> None:
    result = compared(write_grid(tmp_path / "steps", GRID), rules=("last", "offline", "best-online", "mean_last_10"))
    assert [(group["group"], group["name"]) for group in result.groups] == [("A", "N=2"), ("B", "N=5")]
    assert [group["config"] for group in result.groups] == [{"DiffusionPolicy.n_timesteps": steps} for steps in "25"]
    assert result.warnings == ()
    assert rows_of(result, "name", "task", "seeds") == [
        (label, task, tuple(range(6))) for label in GRID.labels for task in TASKS
    ]
    for (name, task), scores in result.scores.groupby(["name", "task"]):
        figures = scores.set_index(["rule", "metric"])
        assert set(scores.rule) == {*SELECTION_RULES, "best_online minus last"}
        expected = scores_of(GRID, name, task, "last")
        assert figures.point["last", "mean"] == pytest.approx(np.mean(expected))
        assert figures.point["last", "iqm"] == pytest.approx(np.mean(sorted(expected)[1:-1]))
        gap = figures.loc[("best_online minus last", "mean"), ["point", "low", "high"]]
        assert list(gap) == pytest.approx([3.0] * 3), "best-online is 3 points above"
    first = result.scores.iloc[0]
    np.random.seed(0)
    matrix = np.array(scores_of(GRID, "N=2", TASKS[0], "last"))[:, None]
    _, bounds = library.get_interval_estimates(
        {"x": matrix}, lambda x: np.array([metrics.aggregate_mean(x)]), reps=2000
    )
    assert (first.low, first.high) == pytest.approx(tuple(bounds["x"][:, 0]))


def test_a_score_that_is_no_number_is_shown_as_such() -> None:
    runs = [
        {**MADE, "name": str(seed), "seed": seed, "scores": {"last": value}} for seed, value in ((0, 1.0), (1, np.nan))
    ]
    result = compare_groups(finished_runs.FoundRuns(runs), ("last",))
    assert [row["point"] for row in result.as_dict()["scores"]] == [None, None]


def test_folders_and_mlflow_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid's folder, its packs, its experiment (page by page), and the id of its run; no config.gin twice."""
    monkeypatch.setattr(client_module, "PAGE", 7)
    grid = made_grid(values=(2, 5), seeds=2)
    folder, uri = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path)
    send_folder(folder, uri, "steps")
    client, fetched = mlflow_client(uri), []
    download = client.download_artifacts
    client.download_artifacts = lambda *args: (fetched.append(args[0]), download(*args))[1]
    monkeypatch.setattr(finished_runs, "mlflow_client", lambda uri: client)
    find_runs([], "steps", "", uri)
    assert len(fetched) == 4, "one a configuration and task, however many seeds"
    wanted = compared(folder).as_dict()
    assert compared(*sorted((folder / "packs").iterdir())).as_dict() == wanted
    assert compared(folder, folder).as_dict() == wanted, "named twice, counted once"
    assert sorted_groups(compare_groups(find_runs([], "steps", "", uri), ["last"]).as_dict()) == sorted_groups(wanted)
    sent = [
        json.loads(path.read_text())["runs"] for path in (folder / "mlflow.json", *folder.glob("packs/*/mlflow.json"))
    ]
    top, pack, *_ = (next(iter(runs.values()))["run"] for runs in sent)
    assert sorted_groups(compare_groups(find_runs([top], None, "", uri), ["last"]).as_dict()) == sorted_groups(wanted)
    assert len(find_runs([pack], None, "", uri).runs) == 2
    some = find_runs([], "steps", f"params.N = '5' and tags.task = '{TASKS[0]}'", uri)
    assert {(run["label"], run["task"]) for run in some.runs} == {("N=5", TASKS[0])}


def sorted_groups(said: dict[str, Any]) -> Any:
    """A comparison without its letters, which follow the order of runs."""
    rows = [{name: value for name, value in row.items() if name != "group"} for row in said["scores"]]
    return sorted(rows, key=json.dumps)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_different_data_physics_and_versions_are_never_pooled_silently(tmp_path: Path) -> None:
    grid = made_grid(values=(5,), tasks=TASKS[:1], seeds=6)
    one, other = (write_grid(tmp_path / name, grid) for name in ("one", "other"))
    same = compared(one, other)
    assert len(same.groups) == 1
    assert rows_of(same, "seeds") == [(tuple(range(6)),)], "the same seeds again are no new information"
    assert any("2 runs with seed 0: only the first one counts" in text for text in same.warnings)
    pack = other / "packs" / "00000000"
    data = json.loads((pack / "run.json").read_text())["data"]
    change(pack / "run.json", data={**data, "digest": "another"}, versions={"torch": "2.6.0", "dqlab": "0.1.0"})
    result = compared(one, other)
    assert rows_of(result, "data_digest") == [(f"digest of {TASKS[0]}",), ("another",)]
    assert any("the data differ" in text for text in result.warnings)
    assert "Made with different torch: 2.13.0: A; 2.6.0: A." in result.warnings
    for summary in pack.glob("*/summary.json"):
        change(summary, physics="modern")
    result = compared(one, other)
    assert len(result.groups) == 2
    assert any("The environments differ" in text for text in result.warnings)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Failures, runs that go on, tasks and seeds that not every configuration has, few seeds."""
    grid = made_grid(values=(2, 5), seeds=3)
    first, _, *rest = grid.results
    failure = CellStatus(first.cell, FAILED, "diverged", "not finite")
    rest = [result for result in rest if (result.cell.label, result.cell.task) != ("N=5", TASKS[1])]
    pending = tuple(CellStatus(r.cell) for r in grid.results if r not in (first, *rest))
    folder = write_grid(tmp_path / "steps", replace(grid, results=tuple(rest), failures=(failure,), pending=pending))
    assert sorted(compared(folder).warnings) == [
        "1 run has failed: left out.",
        "4 runs have not finished: left out.",
        f"Not every configuration was run on every task: {TASKS[0]}: A, B; {TASKS[1]}: A.",
        f"{TASKS[1]}: fewer than 5 seeds: A (3). Such intervals are too narrow.",
        f"{TASKS[0]}: fewer than 5 seeds: A (1), B (3). Such intervals are too narrow.",
        f"{TASKS[0]}: not every configuration has the same seeds.",
    ]
    result = compared(folder)
    assert result.scores.low[result.scores.seeds == (2,)].isna().all()
    json.dumps(result.as_dict(), allow_nan=False)


def test_grids_whose_bases_differ_are_not_pooled(tmp_path: Path) -> None:
    """In MLflow, cells of both have the same parameters; their files config.gin tell them apart."""
    grid, uri = made_grid(values=(5,), tasks=TASKS[:1], seeds=2), fresh_store(tmp_path)
    folders = [write_grid(tmp_path / name, grid) for name in ("one", "other")]
    for config in folders[1].glob("packs/*/*/config.gin"):
        config.write_text(config.read_text().replace("Training.steps = 5000", "Training.steps = 9000"))
    for folder in folders:
        send_folder(folder, uri, "steps")
    result = compare_groups(find_runs([], "steps", "", uri), ["last"])
    assert sorted(group["config"]["Training.steps"] for group in result.groups) == ["5000", "9000"]
    assert {len(group["config"]) for group in result.groups} == {1}


def test_the_tables_name_rule_caveat_and_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = str(write_grid(tmp_path / "steps", made_grid(values=(2, 5), seeds=3)))
    assert cli.main(["compare", folder, "--rule", "best-online"]) == 0
    said = capsys.readouterr().out
    for text in ("A: N=2", "B: N=5", "n_timesteps", "best-online", "(not D4RL)", "95%", "fewer than 5 seeds"):
        assert text in said
    for text in ("offline", "minus"):
        assert text not in said, "rules that were not asked for"
    assert cli.main(["compare", folder, "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["scores"]
    assert {row["task"] for row in known} == set(TASKS)
    assert cli.main(["compare", folder, "--csv"]) == 0
    said = capsys.readouterr()
    row = next(csv.DictReader(said.out.splitlines()))
    assert (row["name"], row["task"], row["seeds"], row["rule"], row["metric"]) == (
        "N=2",
        TASKS[0],
        "0 1 2",
        "last",
        "mean",
    )
    assert float(row["low"]) == known[0]["low"]
    assert "fewer than 5 seeds" in said.err
    assert cli.main(["compare", folder, "--latex"]) == 0
    said = capsys.readouterr().out
    assert said.count(r"\begin{tabular}") == len(TASKS)
    assert r"A: N=2 & 3 & best-online & " in said


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
        (["--filter", "params.N = '5'", "grid"], "--filter belongs to --experiment"),
        (["0" * 32], "0" * 32),
        (["--experiment", "steps", "--uri", "sqlite:///no.db"], "There is no MLflow store sqlite:///no.db"),
        (["--experiment", "steps", "--uri", "http://127.0.0.1:9"], "the server does not answer"),
    ],
)
def test_mistakes_are_told_in_one_message(
    args: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.main(["compare", *args]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.err.count("dqlab: error:") == 1
    assert not output.out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded grid and one of which nothing has finished."""
    folder = tmp_path_factory.mktemp("place")
    grid = made_grid(values=(5,), tasks=TASKS[:1], seeds=2)
    send_folder(write_grid(folder / "grid", grid), fresh_store(folder), "steps")
    write_grid(
        folder / "empty",
        replace(grid, results=(), pending=tuple(CellStatus(r.cell) for r in grid.results)),
        state="running",
    )
    return folder


def test_plain_runs_of_several_seeds_and_cells(tmp_path: Path) -> None:
    """A run without a grid: its seeds share config.gin; one that is older has no list of replicas."""
    grid = made_grid(values=(5,), tasks=TASKS[:1], seeds=2)
    pack = write_grid(tmp_path / "grid", grid) / "packs" / "00000000"
    text = folder_of(tmp_path / "grid", grid, grid.results[0].cell).joinpath("config.gin").read_text()
    (pack / "config.gin").write_text(text)
    for result in grid.results:
        own = pack / result.cell.replica
        (own / "config.gin").unlink()
        own.rename(pack / f"seed-{result.cell.seed}")
    facts = json.loads((pack / "run.json").read_text())
    del facts["replicas"]
    (pack / "run.json").write_text(json.dumps({**facts, "seeds": [0, 1]}))
    result = compared(pack)
    assert rows_of(result, "task", "seeds") == [(TASKS[0], (0, 1))]


def test_letters_and_differences() -> None:
    runs = [{**MADE, "config": {"x": "1", "y": str(place)} if place else {"x": "1"}} for place in range(703)]
    frame = group_runs(runs)
    assert [frame.group[place] for place in (0, 25, 26, 27, 702)] == ["A", "Z", "AA", "AB", "AAA"]
    groups = describe_groups(frame)
    assert [group["config"] for group in groups[:2]] == [{"y": "unset"}, {"y": "1"}]
    assert groups[1]["name"] == "y=1"


def test_reused_cells_are_compared_under_this_grids_labels(tmp_path: Path) -> None:
    """From another grid's folder, where they have another label; one that is gone is told of."""
    wanted = compared(write_grid(tmp_path / "whole", GRID)).as_dict()
    other = write_grid(tmp_path / "other", GRID)
    for facts in other.glob("packs/*/run.json"):
        facts.write_text(facts.read_text().replace('"cell": "N=', '"cell": "another label, N='))
    folder = write_reusing(tmp_path / "steps", GRID, other, [r.cell for r in GRID.results[:8]])
    assert sorted_groups(compared(folder).as_dict()) == sorted_groups(wanted)
    assert compared(folder).warnings == ()
    lost = folder_of(other, GRID, GRID.results[0].cell)
    lost.rename(tmp_path / "away")
    said = compared(folder).warnings
    assert said[0] == f"1 reused cell gone, such as {lost}: left out. Run the grid again to train them here."
    assert not any("not finished" in text for text in said)


DAMAGED = ("", "{}", "[]", '{"task": "a", "sel', '{"task": "a", "caveat": "", "physics": "", "selection": []}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_summary_is_left_out_and_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_grid(tmp_path / "steps", made_grid(values=(2,), tasks=TASKS[:1], seeds=3))
    summaries = sorted(folder.glob("packs/*/*/summary.json"))
    summaries[0].write_text(text)
    result = compared(folder)
    assert rows_of(result, "seeds") == [((1, 2),)]
    assert [f"Left out: {summaries[0]} is damaged" in told for told in result.warnings].count(True) == 1
    assert not any("not finished" in told for told in result.warnings)
    for summary in summaries:
        summary.write_text(text)
    assert cli.main(["compare", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"{summaries[0]} is damaged" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"task": 1, "data": 2, "versions": 3, "replicas": 4}'])
@pytest.mark.parametrize("name", ["run.json", "grid.json"])
def test_damaged_facts_are_told_in_one_line(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_grid(tmp_path / "steps", made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2))
    path = folder / name if name == "grid.json" else folder / "packs" / "00000000" / name
    path.write_text(text)
    assert cli.main(["compare", str(path.parent)]) == 2
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said
    assert said.count("\n") == 1
    if name == "run.json":
        assert rows_of(compared(folder), "name") == [("N=5",)]
        assert any(f"Left out: {path} is damaged" in told for told in compared(folder).warnings)


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_a_damaged_failure_is_a_failure(text: str, tmp_path: Path) -> None:
    grid = made_grid(values=(2,), tasks=TASKS[:1], seeds=3)
    folder = write_grid(tmp_path / "steps", grid)
    (folder_of(folder, grid, grid.results[0].cell) / "failure.json").write_text(text)
    assert compared(folder).warnings[0] == "1 run has failed: left out."
