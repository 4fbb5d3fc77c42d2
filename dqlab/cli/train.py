"""`dqlab train`: train."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.cli.parser import GIN, PLUGIN, SET, bindings_of, command, load_configuration, option, setting, switch
from dqlab.errors import ConfigError, DqlabError, StoppedError, message_of
from dqlab.files import expanded
from dqlab.machine import StopRequest, asked_to_stop

UNFINISHED = r'"state": "(running|interrupted)"'
"""In run.json."""


@command(
    "train",
    """
    dqlab train --gin gin/quickstart.gin
    dqlab train --gin gin/diffql_walker2d.gin --seeds 0 1 2 --set DiffusionQL.eta=0.5
    dqlab train --gin gin/diffql_walker2d.gin --out runs/mine --resume
    dqlab train --gin ablations/steps.gin --cell N=10
    """,
    GIN,
    SET,
    PLUGIN,
    setting("--seeds", "one replica each", "Experiment.seeds", type=int, nargs="+"),
    setting("--device", "auto, cpu, cuda or cuda:N", "Experiment.device"),
    setting("--steps", "updates in all", "Training.steps", type=int),
    option("--cell", "one cell of an ablation's file, e.g. --cell N=10", metavar="LABEL"),
    option("--out", "the run's folder; runs/NAME-TIME by default", type=expanded),
    switch("--resume", "continue the run in --out (or the newest one by default)"),
    switch("--profile", "record some 20 updates by torch's profiler: RUN/profile/summary.md, and a Perfetto trace"),
    switch("--quiet", "no progress, no table; warnings go to stderr", "-q"),
)
def train(args: argparse.Namespace) -> int:
    """Train what a gin file describes, one or many seeds together."""
    from dqlab.runs import train
    from dqlab.runs.records import print_finished
    from dqlab.runs.run import new_run_folder
    from dqlab.tracking.mlflow.mirror import warn_unsent

    stem = expanded(args.gin[-1]).stem if args.gin else "*"
    if args.cell:
        stem += "-" + re.sub(r"[^\w.=+-]+", "-", args.cell)
    folder = args.out or (_unfinished(stem) if args.resume else new_run_folder(stem))
    stored = not args.gin
    args.gin = args.gin or [_own_config(folder, args.resume)]
    typed = args.set
    if args.cell:
        args.set = [*_cell(args), *args.set]
    loaded = load_configuration(args, bindings_of(args), stored)
    with asked_to_stop() as asked:
        try:
            tell = partial(_note_start, asked)
            options = {"resume": args.resume, "quiet": args.quiet, "profile": args.profile}
            finished = train(loaded, folder, **options, tell=tell, stop=asked.event, typed=typed)
        except (StoppedError, KeyboardInterrupt, DqlabError) as error:
            return _say_stopped(asked, error, folder)
    if not args.quiet:
        print_finished(finished)
    if finished.sent is False:
        warn_unsent(folder)
    finished.check_complete()
    return 0


def _note_start(asked: StopRequest, event: Mapping[str, Any]) -> None:
    """From the first update on there is something to save."""
    if event["event"] == "started":
        asked.saves = True


def _say_stopped(asked: StopRequest, error: BaseException, folder: Path) -> int:
    """What a signal has ended; the exit code is the signal's.

    A terminal sends it to compilers and environments of the run as well, whose end raises other errors.
    """
    if not asked.number:
        raise error
    name, what = signal.Signals(asked.number).name, "interrupted before its first update"
    if isinstance(error, StoppedError):
        what = message_of(error)
    elif asked.saves:
        what = "interrupted; the last checkpoint is at most a minute old"
    with suppress(OSError):
        again = (
            f"dqlab train --resume --out {folder} continues" if (folder / "run.json").exists() else "Nothing is kept"
        )
        print(f"dqlab: {name}: {what}. {again}.", file=sys.stderr, flush=True)
    return asked.code


def _cell(args: argparse.Namespace) -> list[str]:
    """What the chosen cell of a grid file sets."""
    from dqlab.ablation import Grid

    load_configuration(args)
    cell, given = Grid().setting(args.cell), {binding.partition("=")[0].strip() for binding in args.set}
    for name in sorted(given & set(cell.bindings)):
        print(f"dqlab: warning: --set {name} overrides the cell '{cell.label}'", file=sys.stderr)
    return cell.as_text()


def _unfinished(stem: str) -> Path:
    """The newest run of that name that can go on."""
    earlier = Path("runs").glob(f"{stem}-2*/run.json")
    unfinished = sorted(path.parent for path in earlier if re.search(UNFINISHED, path.read_text(errors="replace")))
    if not unfinished:
        raise ConfigError(f"There is no unfinished run runs/{stem}-* to resume. Name it with --out.")
    return unfinished[-1]


def _own_config(folder: Path, resume: bool) -> Path:
    """The configuration that a run stored, for a resume that names none."""
    from dqlab.tracking import RunFolder

    if not resume:
        raise ConfigError("Name a gin file, for example --gin gin/quickstart.gin (dqlab train --help).")
    if (folder / "run.json").exists():
        RunFolder(folder).check(resume)
    if not (folder / "config.gin").exists():
        raise ConfigError(f"There is no run in {folder} to resume. Name a gin file to start one there.")
    return folder / "config.gin"
