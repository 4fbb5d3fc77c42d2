"""`dqlab ablate`: run a grid."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqlab.cli.options import add_command, add_set
from dqlab.files import expanded

if TYPE_CHECKING:
    from dqlab.ablation import GridRequest

ENGINE_OPTIONS = {"workers": "LocalEngine.workers", "address": "RayEngine.address", "storage": "Grid.storage"}
EXAMPLES = """
dqlab ablate --grid ablations/steps.gin --dry-run
dqlab ablate --grid ablations/steps.gin --seeds 0 1 2 --out runs/steps
dqlab ablate --grid ablations/steps.gin --out runs/steps --report-only
"""


def add_ablate(commands: Any) -> None:
    """`dqlab ablate`."""
    text = "Run a grid of experiments, and report what it says; the same command continues what was killed."
    parser = add_command(commands, "ablate", _ablate, text, EXAMPLES)
    parser.add_argument("--grid", required=True, metavar="FILE", help="gin file with Grid.axes")
    parser.add_argument(
        "--gin", action="append", default=[], metavar="FILE", help="more gin files, which override the grid's"
    )
    add_set(parser)
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
    parser.add_argument(
        "--reuse",
        type=expanded,
        nargs="+",
        default=[],
        metavar="GRID",
        help="folders of other grids, whose cells are not trained again",
    )
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
        return 0
    if args.dry_run:
        dry_run(request, Console())
        return 0
    return ablate(request, Console(quiet=args.quiet))


def _request_of(args: argparse.Namespace) -> GridRequest:
    from dqlab.ablation import GridRequest

    chosen = {
        "Grid.engine": args.engine,
        "Grid.seeds": args.seeds and tuple(args.seeds),
        "Grid.tasks": args.tasks and tuple(args.tasks),
        "Training.steps": args.steps,
        "Experiment.device": args.device,
        **{parameter: getattr(args, option) for option, parameter in ENGINE_OPTIONS.items()},
    }
    bindings = [*args.set, *(f"{name}={value!r}" for name, value in chosen.items() if value is not None)]
    return GridRequest(
        files=[args.grid, *args.gin],
        bindings=bindings,
        imports=args.plugin,
        out=args.out or Path("runs") / Path(args.grid).stem,
        reuse=args.reuse,
        force=args.force,
        retry=args.retry,
        command=shlex.join(["dqlab", *sys.argv[1:]]),
    )
