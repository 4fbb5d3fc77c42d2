"""`dqlab ablate`, from its arguments."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from dqlab.ablation.session import Request
from dqlab.console import Console

ENGINE_OPTIONS = {"workers": "LocalEngine.workers", "address": "RayEngine.address"}


def run(args: argparse.Namespace) -> int:
    """Plan or run a grid; returns the exit code."""
    from dqlab.ablation.driver import ablate
    from dqlab.ablation.dry_run import dry_run
    from dqlab.ablation.reporting import report

    request = request_of(args)
    if args.report_only:
        report(request, Console(quiet=args.quiet))
        return 0
    if args.dry_run:
        dry_run(request, Console())
        return 0
    return ablate(request, Console(quiet=args.quiet))


def request_of(args: argparse.Namespace) -> Request:
    """What the arguments ask for."""
    chosen = {
        "Grid.engine": args.engine,
        "Grid.seeds": args.seeds and tuple(args.seeds),
        "Grid.tasks": args.tasks and tuple(args.tasks),
        "Training.steps": args.steps,
        "Experiment.device": args.device,
        **{parameter: getattr(args, option) for option, parameter in ENGINE_OPTIONS.items()},
    }
    bindings = [*args.set, *(f"{name}={value!r}" for name, value in chosen.items() if value is not None)]
    return Request(
        files=[args.grid, *args.gin],
        bindings=bindings,
        imports=args.plugin,
        out=args.out or Path("runs") / Path(args.grid).stem,
        reuse=args.reuse,
        force=args.force,
        retry=args.retry,
        report_only=args.report_only,
        command=shlex.join(["dqlab", *sys.argv[1:]]),
    )
