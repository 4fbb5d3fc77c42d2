"""`dqlab runs`: what there is, how it goes, tags, notes, what to delete; and MLflow: `dqlab sync`, `dqlab ui`."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from os.path import expanduser
from pathlib import Path
from textwrap import dedent
from typing import Any

from dqlab.cli.experiments import export
from dqlab.cli.parser import Command, command, option, switch
from dqlab.errors import ConfigError, RunError
from dqlab.files import expanded, write_text
from dqlab.machine import in_words

A_RUN = "folder of a run, or of a grid"
RUN = option("run", A_RUN, type=expanded, metavar="RUN")


@command("list", "dqlab runs list", option("folder", "runs by default", nargs="?", type=expanded, default=Path("runs")))
def _list(args: argparse.Namespace) -> None:
    """Show the runs and grids in a folder."""
    from rich.table import Table

    from dqlab.printing import Console, counted
    from dqlab.tracking.folders import SkippedRecords, grid_of, is_grid, list_runs, read_facts, read_notes

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = list_runs(args.folder)
    runs = [Path(path).parent for path in found["path"]]
    owners = [run.parents[1] if grid_of(run) else run for run in runs]
    leaving = SkippedRecords()
    caveats = sorted(set(found["caveat"][found["last"].notna()]) - {""})
    marks = {"": "", **{caveat: "*" * number for number, caveat in enumerate(caveats, 1)}}
    caption = "\n".join(f"{mark} {caveat}" for caveat, mark in marks.items() if mark)
    table = Table(box=None, caption_justify="left", caption=caption or None)
    for column in ("run", "state", "last", "tags"):
        justify: Any = "right" if column == "last" else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "tags")
    for path, rows in found.assign(owner=owners).groupby("owner"):
        known = {name: rows[name].unique() for name in ("task", "algorithm")}
        what = ", ".join(each[0] if len(each) == 1 else f"{len(each)} {name}s" for name, each in known.items())
        scores = rows["last"].dropna().astype(float)
        last = f"{scores.mean():.1f}{marks[max(rows['caveat'][rows['last'].notna()])]}" if len(scores) else "-"
        with leaving.damaged():
            cells: Any = read_facts(path).get("cells") if is_grid(path) else None  # those that have a score, and all
            shown = last if cells is None else f"{len(scores)}/{counted(cells, 'cell')}"
            tags = _in_words(read_notes(path)["tags"])
            table.add_row(f"{path.relative_to(args.folder)}\n  {what}", _state(path), shown, tags)
    for text in (*(str(each.message) for each in told), *leaving.out):
        print(f"dqlab: warning: {text}", file=sys.stderr)
    if found.empty:
        print(f"There are no runs in '{args.folder}'.")
    else:
        Console().print(table)


def _in_words(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" if value else name for name, value in tags.items())


def _state(path: Path) -> str:
    """As the folder has it; one that says `running` though no process has it was killed."""
    from dqlab.tracking.folders import read_facts

    state = str(read_facts(path).get("state", "running"))
    with suppress(OSError):  # somebody else's, whose lock cannot be opened
        return "killed" if state == "running" and not _in_use(path) else state
    return state


def _in_use(path: Path) -> bool:
    """Whether a process has a run, a grid, or one of a grid's packs."""
    from dqlab.tracking import RunFolder

    return any(RunFolder(each).in_use() for each in (path, *path.glob("packs/*")))


@command("show", "dqlab runs show runs/mine", RUN)
def _show(args: argparse.Namespace) -> None:
    """Show a run's facts and scores."""
    from rich.table import Column, Table

    from dqlab.printing import Console
    from dqlab.tracking.folders import is_grid, read_facts, read_notes

    path, console = args.run, Console()
    facts: Mapping[str, Any] = read_facts(path)
    notes, data, page = read_notes(path), facts.get("data"), path / "report" / "index.html"
    about = {
        "state": _state(path),
        "grid": facts.get("name"),
        **{name: facts.get(name) for name in ("reason", "task", "algorithm", "cell", "physics")},
        "action chunk": facts.get("parameters", {}).get("Experiment.action_chunk"),
        "axes": "; ".join(f"{axis}: {', '.join(points)}" for axis, points in facts.get("axes", {}).items()),
        "tasks": ", ".join(facts.get("tasks", ())),
        "seeds": " ".join(map(str, facts.get("seeds", ()))),
        "cells": facts.get("cells"),
        "data": data and f"{data['source']}, SHA-256 {data['digest'][:12]}",
        "caveat": facts.get("caveat"),
        "device": "device" in facts and f"{facts['device']} ({facts['device_name']})",
        "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()),
        "commit": facts.get("git_commit"),
        "report": page.exists() and page,
        "tags": _in_words(notes["tags"]),
        "note": notes["note"],
    }
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False)
    for name, text in about.items():
        if text:  # a run and a grid have some of these each
            table.add_row(name, str(text))
    console.print(f"{path}", soft_wrap=True)
    console.print(table)
    console.print(_settings(path) if is_grid(path) else _scores(path, facts))


def _settings(path: Path) -> Any:
    """How far a grid is: a row a setting and task."""
    from rich.table import Table

    from dqlab.tracking.folders import GRID, list_runs, reused_cells
    from dqlab.tracking.records import BegunGridRecord, PlanRecord, read_record

    begun, plan = read_record(path / GRID, BegunGridRecord), path / "plan.json"
    cells = read_record(plan, PlanRecord)["cells"] if plan.exists() else []
    place = {cell["label"]: number for number, cell in reversed(list(enumerate(cells)))}
    facts: Mapping[str, Any] = begun
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = list_runs(path).sort_values("cell", key=lambda names: names.map(place), kind="stable")
    done = (found["state"] == "finished").sum() + len(reused_cells(begun))
    said = [*sorted(set(found["caveat"]) - {""}), *(str(each.message) for each in told)]
    title = f"{path}: {_state(path)}, {done:,} of {facts.get('cells', 0):,} cells finished"
    table = Table(box=None, title=title, title_justify="left", caption="; ".join(said), caption_justify="left")
    for column in ("setting", "task", "finished", "failed", "under way", "last"):
        table.add_column(column, justify="left" if column in ("setting", "task") else "right", overflow="fold")
    for (setting, task), rows in found.groupby(["cell", "task"], sort=False):
        states, scores = list(rows["state"]), rows["last"].dropna().astype(float)
        counts = [states.count("finished"), states.count("failed")]
        mean = f"{scores.mean():.1f}" if len(scores) else "-"
        table.add_row(setting, task, *map(str, (*counts, len(states) - sum(counts))), mean)
    return table


def _scores(path: Path, facts: Mapping[str, Any]) -> Any:
    """The table that the run ended with, of the replicas that have finished."""
    from dqlab.tracking import RunFolder
    from dqlab.tracking.display import summary_table

    folder, failed, summaries = RunFolder(path), {}, {}
    for replica in folder.replicas():
        if known := folder.failure(replica):
            failed[replica.title] = known.get("step") or 0
        elif (folder.replica(replica.name) / "summary.json").exists():
            summaries[replica.title] = folder.summary(replica)
    if not (summaries or failed):
        return f"No scores yet: dqlab runs tail {path}"
    data = {"score_mean": math.nan, "return_mean": math.nan, **facts["data"]}  # not in records of earlier versions
    return summary_table(summaries, data, facts["caveat"], failed, facts.get("scored", True))


@command(
    "tail",
    "dqlab runs tail runs/mine",
    RUN,
    option("--every", "between two looks; 2 by default", type=float, default=2.0, metavar="SECONDS"),
)
def _tail(args: argparse.Namespace) -> None:
    """Show a run's curves, or how far a grid's cells are, until it ends."""
    from rich.live import Live

    from dqlab.printing import Console
    from dqlab.tracking.folders import is_grid, read_facts

    if not 0.1 <= args.every <= 3600:
        raise ConfigError(f"--every is {args.every:g}: between 0.1 and 3600 seconds.")
    over, console, shown = False, Console(), _settings if is_grid(args.run) else _curves
    read_facts(args.run)
    with Live(console=console, auto_refresh=False) as live:
        while not over:
            over = _state(args.run) != "running"
            live.update(shown(args.run), refresh=True)
            time.sleep(0.0 if over else args.every)
    if not console.is_terminal:
        console.line()


def _curves(path: Path) -> Any:
    """Scores and losses so far, a line a replica and metric."""
    from rich.table import Table

    from dqlab.tracking import RunFolder
    from dqlab.tracking.folders import logged_metrics

    run = RunFolder(path)
    facts: Mapping[str, Any] = run.facts()
    known = logged_metrics(run)
    steps = facts.get("parameters", {}).get("Training.steps")
    done = f"{int(known['step'].max()) if len(known) else 0:,}{f' of {steps:,}' if steps else ''}"
    options: Any = {"title_justify": "left", "caption": facts["caveat"], "caption_justify": "left"}
    table = Table(box=None, title=f"{run.path}: {_state(run.path)}, step {done}", **options)
    for column in ("replica", "metric", "so far", "now"):
        table.add_column(column, justify="right" if column == "now" else "left", overflow="fold")
    score = "score/mean" if facts.get("scored", True) else "eval/return_mean"
    chosen = known[(known["metric"] == score) | known["metric"].str.match(r"train/.*loss$")]
    for (replica, metric), line in chosen.groupby(["replica", "metric"], sort=True):
        values = line["value"].to_list()
        table.add_row(replica, metric.removeprefix("train/"), sparkline(values), f"{values[-1]:.4g}")
    return table


BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32


def sparkline(values: Iterable[float]) -> str:
    """A curve in a line of text: at most 32 of the values, evenly chosen, the last one among them."""
    finite = [value for value in values if math.isfinite(value)]
    count = min(WIDTH, len(finite))
    shown = [finite[-1 - (len(finite) - 1) * back // max(1, count - 1)] for back in reversed(range(count))]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


@command(
    "tag",
    "dqlab runs tag runs/mine baseline paper=table1",
    RUN,
    option("tags", "letters, digits, dots and dashes in names", nargs="+", metavar="NAME[=VALUE]"),
    switch("--remove", "take these away"),
)
def _tag(args: argparse.Namespace) -> None:
    """Give a run tags, or take them away."""
    from dqlab.tracking.folders import read_notes

    given = dict(tag.partition("=")[::2] for tag in args.tags)
    _check_own(args.run)
    tags = read_notes(args.run)["tags"]
    if args.remove and (unknown := [name for name in given if name not in tags]):
        raise RunError(f"{args.run} has no tag '{unknown[0]}'. It has {_in_words(tags) or 'none'}.")
    left = {name: value for name, value in tags.items() if name not in given}
    _write_notes(args.run, tags=left if args.remove else {**tags, **given})


@command("note", 'dqlab runs note runs/mine "as it was"', RUN, option("text", "replaces an earlier one; '' removes it"))
def _note(args: argparse.Namespace) -> None:
    """Write a note about a run."""
    _check_own(args.run)
    _write_notes(args.run, note=args.text)


def _check_own(path: Path) -> None:
    """See that it is a run or a grid, and not a part of one."""
    from dqlab.tracking.folders import grid_of, read_facts

    read_facts(path)
    if grid := grid_of(path):
        raise RunError(f"{path} is a part of a grid. Name the grid: {grid}.")


def _write_notes(path: Path, **changed: Any) -> None:
    from dqlab.tracking.folders import NOTES, read_notes
    from dqlab.tracking.mlflow.sync import is_tracked
    from dqlab.tracking.records import NotesRecord, in_short, parse_record

    text = json.dumps({**read_notes(path), **changed}, indent=1)
    try:
        notes = parse_record(text, NotesRecord)
    except ValueError as error:
        allowed = "a tag's name has letters, digits, dots and dashes only, a note at most 5,000 characters"
        raise ConfigError(f"That cannot be kept: {allowed} ({in_short(error)}).") from error
    write_text(path / NOTES, text)
    print(f"{path}: {_in_words(notes['tags']) or 'no tags'}{'; ' if notes['note'] else ''}{notes['note']}")
    if is_tracked(path):
        print(f"For MLflow to have it: dqlab sync {path}")


@command(
    "rm",
    "dqlab runs rm runs/a runs/b --yes",
    option("runs", A_RUN, nargs="+", type=expanded, metavar="RUN"),
    switch("--yes", "do not ask"),
)
def _rm(args: argparse.Namespace) -> None:
    """Delete runs, or grids as a whole."""
    from dqlab.tracking.mlflow.sync import is_tracked
    from dqlab.tracking.run_folder import claim_folder

    for path in args.runs:
        _check_own(path)
        _check_unused(path)
    for path in args.runs:
        if not (args.yes or _agreed(path)):
            print(f"{path} is kept.")
            continue
        _check_unused(path)  # the question may have stood for hours
        tracked = is_tracked(path)
        with claim_folder(path):
            shutil.rmtree(path)
        print(f"{path} is deleted.{' What MLflow has of it stays there.' if tracked else ''}")


def _check_unused(path: Path) -> None:
    if _in_use(path):
        raise RunError(f"{path} is in use: a process trains in it. Stop that one first.")


def _agreed(path: Path) -> bool:
    files = [file for file in path.rglob("*") if file.is_file()]
    size = in_words(sum(file.lstat().st_size for file in files))
    try:
        answer = input(f"Delete {path} ({_state(path)}; {len(files)} files, {size})? [y/N] ")
    except EOFError as error:
        raise RunError(f"Nobody has answered: {path} is kept. --yes deletes without asking.") from error
    return answer.strip().lower() in ("y", "yes")


_export = export._replace(examples=dedent(export.examples).strip().replace("dqlab export", "dqlab runs export"))
OF_RUNS = (_list, _show, _tail, _tag, _note, _rm, _export)
RUNS = Command("runs", "List runs and grids, follow, tag, annotate and delete them.", commands=OF_RUNS)


@command(
    "sync",
    "dqlab sync runs/steps --to http://127.0.0.1:5000",
    option("runs", "folder of a run, or of a grid", nargs="+", type=expanded, metavar="RUN"),
    option("--to", "MLflow's URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default", metavar="URI"),
)
def sync(args: argparse.Namespace) -> None:
    """Send to MLflow what could not be sent while a run was training."""
    from dqlab.tracking.mlflow.sync import sync_to_mlflow

    for run in args.runs:
        path, uri = sync_to_mlflow(run, args.to or "")
        print(f"{path}: MLflow ({uri}) has all of it.")


@command(
    "ui",
    "dqlab ui runs",
    option("place", "runs, one run, a grid, or MLflow's URI", nargs="?", type=expanduser, metavar="DIR|URI"),
    option("--port", "the next free one from it; 5000 by default", type=int, default=5000),
    option("--host", "address to listen on; this machine only by default", default="127.0.0.1"),
)
def ui(args: argparse.Namespace) -> int:
    """Open MLflow's pages on the runs that were recorded here."""
    from dqlab.tracking.mlflow.client import serve_ui

    return serve_ui(args.place, args.host, args.port)
