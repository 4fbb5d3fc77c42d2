"""`dqlab ablate`: run a grid; `dqlab compare`: compare what was run; `dqlab figure`: figures of the paper."""

from __future__ import annotations

import argparse
import shlex
import sys
from os.path import expanduser
from pathlib import Path

from dqlab.cli import parser
from dqlab.cli.parser import PLUGIN, SET, Command, bindings_of, command, one_of, option, setting, switch
from dqlab.files import expanded


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
    switch("--retry", "try cells again that have diverged"),
    switch("--force", "train every cell again; what there is is set aside"),
    switch("--report-only", "train nothing, report what there is"),
    switch("--quiet", "say nothing but errors", "-q"),
)
def ablate(args: argparse.Namespace) -> int:
    """Run a grid of experiments, and report what it says; the same command continues what was killed."""
    from dqlab.ablation import GridRequest, ablate
    from dqlab.ablation.driver import dry_run
    from dqlab.ablation.report import report_grid
    from dqlab.printing import Console

    request = GridRequest(
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
        return ablate(request, Console(quiet=args.quiet))
    return 0


@command(
    "compare",
    "dqlab compare runs/mine runs/theirs --rule last offline",
    option("runs", "folder of a run, a grid or a pack, or an MLflow run id", nargs="*", type=expanduser, metavar="RUN"),
    option("--experiment", "all runs of an MLflow experiment", metavar="NAME"),
    option("--filter", "MLflow's, e.g. \"params.N = '5'\"; with --experiment", default=""),
    option("--rule", "selection rules: last, offline, best-online (these by default), ...", nargs="+"),
    one_of(
        option("--json", "as JSON", action="store_const", const="json", dest="form"),
        option("--csv", "as CSV, a row a figure", action="store_const", const="csv", dest="form"),
        option("--latex", "as LaTeX tables (booktabs)", action="store_const", const="latex", dest="form"),
    ),
    option("--uri", "MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db here, by default"),
)
def compare(args: argparse.Namespace) -> None:
    """Say what differs between runs, and what they score, with intervals over seeds."""
    from dqlab.analysis import run_compare

    run_compare(args.runs, args.experiment, args.filter, args.uri, args.rule, args.form)


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


FIGURE = Command(
    "figure", "Train what a figure of the paper shows, and draw it.", "dqlab figure bandit", commands=[_figure_bandit]
)
