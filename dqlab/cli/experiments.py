"""Experiments: `dqlab train`, `eval` and `export`, of one; `dqlab ablate`, `compare` and `figure`, of many."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from os.path import expanduser
from pathlib import Path
from typing import Any

from dqlab import ablation, analysis, runs
from dqlab.cli import parser
from dqlab.cli.parser import GIN, PLUGIN, SET, Command, bindings_of, command, option, setting, switch
from dqlab.errors import ConfigError, DqlabError, StoppedError, message_of
from dqlab.files import expanded
from dqlab.machine import StopRequest, asked_to_stop


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
    switch("--resume", "continue the run in --out"),
    switch("--profile", "record some 20 updates by torch's profiler: RUN/profile/summary.md, and a Perfetto trace"),
    switch("--quiet", "no progress, no table; warnings go to stderr", "-q"),
)
def train(args: argparse.Namespace) -> int:
    """Train what a gin file describes, one or many seeds together."""
    from dqlab.runs.run import new_run_folder, print_finished
    from dqlab.tracking.mlflow.sync import warn_unsent

    stem = expanded(args.gin[-1]).stem if args.gin else ""
    if args.cell:
        stem += "-" + re.sub(r"[^\w.=+-]+", "-", args.cell)
    if args.resume and not args.out:
        raise ConfigError("--resume wants the run's folder: --out RUN (`dqlab runs list` shows them).")
    folder = args.out or new_run_folder(stem)
    stored = not args.gin
    args.gin = args.gin or [_own_config(folder, args.resume)]
    typed = args.set
    if args.cell:
        parser.load_configuration(args)
        cell, given = ablation.Grid().setting(args.cell), {binding.partition("=")[0].strip() for binding in args.set}
        for name in sorted(given & set(cell.bindings)):
            print(f"dqlab: warning: --set {name} overrides the cell '{cell.label}'", file=sys.stderr)
        args.set = [*cell.as_text(), *args.set]
    loaded = parser.load_configuration(args, bindings_of(args), stored)
    with asked_to_stop() as asked:

        def note_start(event: Mapping[str, Any]) -> None:
            asked.saves |= event["event"] == "started"  # from the first update on there is something to save

        try:
            options = {"resume": args.resume, "quiet": args.quiet, "profile": args.profile}
            finished = runs.train(loaded, folder, **options, tell=note_start, stop=asked.event, typed=typed)
        except (StoppedError, KeyboardInterrupt, DqlabError) as error:
            return _say_stopped(asked, error, folder)
    if not args.quiet:
        print_finished(finished)
    if finished.sent is False:
        warn_unsent(folder)
    finished.check_complete()
    return 0


def _say_stopped(asked: StopRequest, error: BaseException, folder: Path) -> int:
    """Say what a signal has ended, whose exit code it is; compilers and environments get it, too, and raise others."""
    if not asked.number:
        raise error
    name, what = signal.Signals(asked.number).name, "interrupted before its first update"
    if isinstance(error, StoppedError):
        what = message_of(error)
    elif asked.saves:
        what = "interrupted; the last checkpoint is at most a minute old"
    with suppress(OSError):
        kept = (folder / "run.json").exists()
        again = f"dqlab train --resume --out {folder} continues" if kept else "Nothing is kept"
        print(f"dqlab: {name}: {what}. {again}.", file=sys.stderr, flush=True)
    return 128 + asked.number


def _own_config(folder: Path, resume: bool) -> Path:
    """The configuration that a run stored, for a resume that names none."""
    if not resume:
        raise ConfigError("Name a gin file, for example --gin gin/quickstart.gin (dqlab train --help).")
    if (folder / "run.json").exists():
        from dqlab.tracking import RunFolder

        RunFolder(folder).check(resume)
    if not (folder / "config.gin").exists():
        raise ConfigError(f"There is no run in {folder} to resume. Name a gin file to start one there.")
    return folder / "config.gin"


@command(
    "eval",
    """
    dqlab eval runs/mine --checkpoint best --episodes 100
    dqlab eval runs/mine --render walk.mp4
    dqlab eval pretrained:walker2d-mini --render walk.mp4
    dqlab eval --official results/DIR --task walker2d-medium-expert-v2
    """,
    option("run", "the run's folder, an exported policy's, hf:USER/REPO or pretrained:NAME", nargs="?"),
    option("--checkpoint", "last, best, offline, or a .safetensors file", default="last", type=expanduser),
    option("--seed", "which replica; all of them by default", type=int),
    option("--episodes", "episodes; as many as in training by default (official: 10)", type=int),
    setting("--device", "auto, cpu, cuda or cuda:N; as in training by default", "Experiment.device"),
    setting("--env-backend", "gymnasium, or d4rl after `make legacy`; as in training", "Experiment.env_backend"),
    option("--official", "folder of the official code's actor_*.pth, critic_*.pth", type=expanded, metavar="DIR"),
    option("--epoch", "which official checkpoint; the latest by default"),
    option("--task", "the official checkpoint's task"),
    option("--render", "make a video, .mp4 or .gif, of each replica's first episode", type=expanded, metavar="FILE"),
    SET,
    PLUGIN,
)
def evaluate(args: argparse.Namespace) -> None:
    """Evaluate a run's checkpoint, or an official one, on its task."""
    if (args.run is None) == (args.official is None):
        raise ConfigError("dqlab eval wants either a run's folder, or --official DIR with --task NAME.")
    if args.run is not None and (args.task or args.epoch):
        raise ConfigError("--task and --epoch belong to --official; a run knows its own task.")
    if args.official is not None and args.task is None:
        raise ConfigError("--official wants --task, for example --task walker2d-medium-expert-v2.")
    from dqlab.runs.load_policy import load_policies

    bindings = [*args.set, *bindings_of(args)]
    if args.official is None:
        policies, episodes = load_policies(args.run, args.checkpoint, args.seed, bindings=bindings), args.episodes
    else:
        policies = load_policies(args.official, args.epoch or "last", task=args.task, bindings=bindings)
        episodes = 10 if args.episodes is None else args.episodes
    runs.evaluate_run(policies, episodes, bindings, args.render)


@command(
    "export",
    """
    dqlab export runs/mine --out walker
    dqlab export runs/mine --seed 1 --format torch --out walker
    dqlab export runs/mine --out walker --push hf:USER/REPO
    """,
    option("run", "the run's folder, one replica's in it, hf:USER/REPO or pretrained:NAME"),
    option("--out", "the folder that is written", type=expanded, required=True),
    option("--format", "onnx by default", default="onnx", choices=("onnx", "torch")),
    option("--checkpoint", "best (default), last, offline, or a .safetensors file", default="best", type=expanduser),
    option("--seed", "which replica, where the run has several", type=int),
    option("--push", "upload it to the Hugging Face Hub, too", default="", metavar="hf:USER/REPO"),
    PLUGIN,
)
def export(args: argparse.Namespace) -> None:
    """Write a policy as one ONNX or PyTorch model, with a card and an example."""
    from dqlab.printing import Console
    from dqlab.runs.export import export_policy

    with Console(stderr=True).status(f"writing and checking {args.out}: a minute or so"):
        written = export_policy(args.run, args.out, args.format, args.checkpoint, args.seed, args.push)
    print(*written, sep="\n")


@command(
    "ablate",
    """
    dqlab ablate --grid ablations/steps.gin --dry-run
    dqlab ablate --grid ablations/steps.gin --seeds 0 1 2 --out runs/steps
    dqlab ablate --grid ablations/steps.gin --out runs/steps --report-only
    """,
    option("--grid", "gin file with Grid.axes", required=True, metavar="FILE", completer=parser.complete_gin_file),
    option("--gin", "more gin files, which override the grid's", action="append", default=[], metavar="FILE"),
    SET,
    PLUGIN,
    switch("--dry-run", "show cells, packs, time and memory; train nothing"),
    option("--out", "the grid's folder; runs/NAME by default", type=expanded),
    setting("--engine", "local (default), ray or slurm", "Grid.engine"),
    setting("--workers", "packs at a time on this machine", "LocalEngine.workers", type=int),
    setting("--address", "of a Ray cluster: auto, or HOST:PORT", "RayEngine.address"),
    setting("--storage", "for packs, where all machines see it", "Grid.storage"),
    setting("--seeds", "of every cell", "Grid.seeds", type=int, nargs="+"),
    setting("--tasks", "to run every setting on", "Grid.tasks", nargs="+"),
    setting("--steps", "updates of every cell", "Training.steps", type=int),
    setting("--device", "auto, cpu, cuda or cuda:N", "Experiment.device"),
    option("--reuse", "grids whose cells are not trained again", type=expanded, nargs="+", default=[], metavar="GRID"),
    switch("--retry", "try cells again that have failed"),
    switch("--force", "train every cell again; what there is is set aside"),
    switch("--report-only", "train nothing, report what there is"),
    switch("--quiet", "say nothing but errors", "-q"),
)
def ablate(args: argparse.Namespace) -> int:
    """Run a grid of experiments, and report what it says; the same command continues what was killed."""
    from dqlab.ablation.driver import dry_run, report_grid
    from dqlab.printing import Console

    request = ablation.GridRequest(
        files=[args.grid, *args.gin],
        bindings=[*args.set, *bindings_of(args)],
        imports=args.plugin,
        out=args.out or Path("runs") / Path(args.grid).stem,
        reuse=args.reuse,
        force=args.force,
        retry=args.retry,
        command=shlex.join(["dqlab", *sys.argv[1:]]),
    )
    if args.report_only:
        report_grid(request, Console(quiet=args.quiet))
    elif args.dry_run:
        dry_run(request, Console())
    else:
        return ablation.ablate(request, Console(quiet=args.quiet))
    return 0


@command(
    "compare",
    "dqlab compare runs/mine runs/theirs --rule last offline",
    option("runs", "folder of a run, a grid or a pack, or an MLflow run id", nargs="*", type=expanduser, metavar="RUN"),
    option("--experiment", "all runs of an MLflow experiment", metavar="NAME"),
    option("--filter", "MLflow's, e.g. \"params.N = '5'\"; with --experiment", default=""),
    option("--rule", "selection rules: last, offline, best-online (these by default), ...", nargs="+"),
    option("--json", "as JSON", action="store_const", const="json", dest="form")
    + option("--csv", "as CSV, a row a figure", action="store_const", const="csv", dest="form")
    + option("--latex", "as LaTeX tables (booktabs)", action="store_const", const="latex", dest="form"),
    option("--uri", "MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db here, by default"),
)
def compare(args: argparse.Namespace) -> None:
    """Say what differs between runs, and what they score, with intervals over seeds."""
    analysis.run_compare(args.runs, args.experiment, args.filter, args.uri, args.rule, args.form)


@command(
    "bandit",
    "dqlab figure bandit --out runs/figure --steps 500 --samples 2000",
    option("--out", "folder; runs/bandit by default", type=expanded, default=Path("runs/bandit")),
    setting("--steps", "updates of every run", "Training.steps", type=int),
    option("--samples", "actions drawn from each policy; 1000 by default", type=int, default=1000),
    SET,
    PLUGIN,
)
def _figure_bandit(args: argparse.Namespace) -> None:
    """The 2D bandit: four policies by cloning, four by Q-learning."""
    from dqlab.tools.bandit import draw_bandit

    draw_bandit(args.out, [*args.set, *bindings_of(args)], args.samples)


FIGURE = Command("figure", "Train what a figure of the paper shows, and draw it.", commands=[_figure_bandit])
