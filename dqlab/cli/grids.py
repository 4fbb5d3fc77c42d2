"""`dqlab ablate`, `compare`: many runs."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.options import add_set, add_uri, command
from dqlab.files import expanded


def add(commands: Any) -> None:
    """Add these commands."""
    _add_ablate(commands)
    _add_compare(commands)


def _add_ablate(commands: Any) -> None:
    text = "Run a grid of experiments, and report what it says; the same command continues what was killed."
    parser = command(commands, "ablate", _ablate, text)
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


def _add_compare(commands: Any) -> None:
    text = "Say what differs between runs, and what they score, with intervals over seeds."
    parser = command(commands, "compare", _compare, text)
    parser.add_argument(
        "runs", nargs="*", type=expanduser, metavar="RUN", help="folder of a run, a grid or a pack, or an MLflow run id"
    )
    parser.add_argument("--experiment", metavar="NAME", help="all runs of an MLflow experiment")
    parser.add_argument("--filter", default="", help="MLflow's, e.g. \"params.N = '5'\"; with --experiment")
    parser.add_argument("--rule", nargs="+", help="selection rules: last, offline, best-online (these by default), ...")
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_uri(parser)


def _ablate(args: argparse.Namespace) -> int:
    from dqlab.ablation import command
    from dqlab.plugins import load_plugins

    load_plugins()
    return command.run(args)


def _compare(args: argparse.Namespace) -> int:
    from dqlab.comparison.command import run

    run(args.runs, args.experiment, args.filter, args.uri, args.rule, args.json)
    return 0
