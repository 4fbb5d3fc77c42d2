"""`dqlab ablate`: run a grid; `dqlab compare`: compare what was run; `dqlab figure`: figures of the paper."""

from __future__ import annotations

import argparse
import shlex
import sys
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqlab.cli.parser import (
    add_command,
    add_group,
    add_parser,
    add_plugin,
    add_set,
    add_uri,
    bindings_of,
    complete_gin_file,
)
from dqlab.files import expanded

if TYPE_CHECKING:
    from dqlab.ablation import GridRequest

ABLATE_EXAMPLES = """
dqlab ablate --grid ablations/steps.gin --dry-run
dqlab ablate --grid ablations/steps.gin --seeds 0 1 2 --out runs/steps
dqlab ablate --grid ablations/steps.gin --out runs/steps --report-only
"""


def add_ablate(commands: Any) -> None:
    """`dqlab ablate`."""
    text = "Run a grid of experiments, and report what it says; the same command continues what was killed."
    parser = add_parser(commands, "ablate", _ablate, text, ABLATE_EXAMPLES)
    grid: Any = parser.add_argument("--grid", required=True, metavar="FILE", help="gin file with Grid.axes")
    grid.completer = complete_gin_file
    text = "more gin files, which override the grid's"
    parser.add_argument("--gin", action="append", default=[], metavar="FILE", help=text)
    add_set(parser)
    add_plugin(parser)
    parser.add_argument("--dry-run", action="store_true", help="show cells, packs, time and memory; train nothing")
    parser.add_argument("--out", type=expanded, help="the grid's folder; runs/NAME by default")
    parser.add_argument("--engine", help="local (default), ray or slurm (Grid.engine)")
    parser.add_argument("--workers", type=int, help="packs at a time on this machine (LocalEngine.workers)")
    parser.add_argument("--address", help="of a Ray cluster: auto, or HOST:PORT (RayEngine.address)")
    parser.add_argument("--storage", metavar="DIR", help="for packs, where all machines see it (Grid.storage)")
    parser.add_argument("--seeds", type=int, nargs="+", help="of every cell (Grid.seeds)")
    parser.add_argument("--tasks", nargs="+", help="to run every setting on (Grid.tasks)")
    parser.add_argument("--steps", type=int, help="updates of every cell (Training.steps)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (Experiment.device)")
    text = "folders of other grids, whose cells are not trained again"
    parser.add_argument("--reuse", type=expanded, nargs="+", default=[], metavar="GRID", help=text)
    parser.add_argument("--retry", action="store_true", help="try cells again that have diverged")
    parser.add_argument("--force", action="store_true", help="train every cell again; what there is is set aside")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what there is")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def _ablate(args: argparse.Namespace) -> int:
    from dqlab.ablation import ablate
    from dqlab.ablation.driver import dry_run
    from dqlab.ablation.report import report_grid
    from dqlab.config.plugins import load_plugins
    from dqlab.printing import Console

    load_plugins()
    request = _request_of(args)
    if args.report_only:
        report_grid(request, Console(quiet=args.quiet))
    elif args.dry_run:
        dry_run(request, Console())
    else:
        return ablate(request, Console(quiet=args.quiet))
    return 0


def _request_of(args: argparse.Namespace) -> GridRequest:
    from dqlab.ablation import GridRequest

    chosen = {
        "Grid.engine": args.engine,
        "Grid.seeds": args.seeds,
        "Grid.tasks": args.tasks,
        "Training.steps": args.steps,
        "Experiment.device": args.device,
        "LocalEngine.workers": args.workers,
        "RayEngine.address": args.address,
        "Grid.storage": args.storage,
    }
    return GridRequest(
        files=[args.grid, *args.gin],
        bindings=[*args.set, *bindings_of(chosen)],
        imports=args.plugin,
        out=args.out or Path("runs") / Path(args.grid).stem,
        reuse=args.reuse,
        force=args.force,
        retry=args.retry,
        command=shlex.join(["dqlab", *sys.argv[1:]]),
    )


COMPARE_EXAMPLES = """
dqlab compare runs/steps
dqlab compare runs/mine runs/theirs --rule last offline
"""


def add_compare(commands: Any) -> None:
    """`dqlab compare`."""
    text = "Say what differs between runs, and what they score, with intervals over seeds."
    parser = add_parser(commands, "compare", _compare, text, COMPARE_EXAMPLES)
    text = "folder of a run, a grid or a pack, or an MLflow run id"
    parser.add_argument("runs", nargs="*", type=expanduser, metavar="RUN", help=text)
    parser.add_argument("--experiment", metavar="NAME", help="all runs of an MLflow experiment")
    parser.add_argument("--filter", default="", help="MLflow's, e.g. \"params.N = '5'\"; with --experiment")
    parser.add_argument("--rule", nargs="+", help="selection rules: last, offline, best-online (these by default), ...")
    form = parser.add_mutually_exclusive_group()
    for name, text in (("json", "JSON"), ("csv", "CSV, a row a figure"), ("latex", "LaTeX tables (booktabs)")):
        form.add_argument(f"--{name}", action="store_const", const=name, dest="form", help=f"as {text}")
    add_uri(parser)


def _compare(args: argparse.Namespace) -> None:
    from dqlab.analysis import run_compare

    run_compare(args.runs, args.experiment, args.filter, args.uri, args.rule, args.form)


BANDIT_EXAMPLES = """
dqlab figure bandit
dqlab figure bandit --out runs/figure --steps 500 --samples 2000
"""


def add_figure(commands: Any) -> None:
    """`dqlab figure`."""
    text = "Train what a figure of the paper shows, and draw it."
    group = add_group(commands, "figure", text, "dqlab figure bandit", "FIGURE")
    text = "The 2D bandit: four policies by cloning, four by Q-learning."
    bandit = add_command(group, "bandit", _figure_bandit, text, BANDIT_EXAMPLES, help=text)
    bandit.add_argument("--out", type=expanded, default=Path("runs/bandit"), help="folder; runs/bandit by default")
    bandit.add_argument("--steps", type=int, help="updates of every run (Training.steps)")
    bandit.add_argument("--samples", type=int, default=1000, help="actions drawn from each policy; 1000 by default")
    add_set(bandit)


def _figure_bandit(args: argparse.Namespace) -> None:
    from dqlab.tools.bandit import draw_bandit

    draw_bandit(args.out, [*args.set, *bindings_of({"Training.steps": args.steps})], args.samples)
