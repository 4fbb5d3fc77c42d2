"""The command line: one thin command per door."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dqlab import __version__
from dqlab.errors import ConfigError, DqlabError, message_of
from dqlab.training.threads import quiet_threads

EPILOG = """examples:
  dqlab train --gin gin/quickstart.gin
  dqlab train --gin gin/diffql_walker2d.gin --seeds 0 1 2 --set DiffusionQL.eta=0.5
  dqlab train --gin gin/diffql_walker2d.gin --out runs/mine --resume
  dqlab train --gin ablations/steps.gin --cell N=10
  dqlab eval runs/mine --checkpoint best --episodes 100
  dqlab eval --official results/DIR --task walker2d-medium-expert-v2
  dqlab list noise_schedule
  dqlab describe noise_schedule vp
  dqlab new-plugin mylab
  dqlab check mylab
  dqlab figure bandit
  dqlab bench compare
  dqlab compare runs/steps
  dqlab ui runs
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2: a mistake that the user can mend, told in one message)."""
    args = _parser().parse_args(argv)
    quiet_threads()
    try:
        return int(args.command(args) or 0)
    except DqlabError as error:
        _show_traceback()
        print(f"dqlab: error: {message_of(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has gone
        return 1
    except OSError as error:
        print(
            f"dqlab: error: {error.filename or 'a file'}: {error.strerror or error}. Nothing is lost.", file=sys.stderr
        )
        return 2
    except (MemoryError, RuntimeError) as error:  # torch's allocators raise RuntimeErrors
        if "memory" not in str(error):
            raise
        _show_traceback()
        first = message_of(error).splitlines()[0]
        print(
            f"dqlab: error: not enough memory ({first}). Lower Training.batch_size, or train fewer seeds.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("dqlab: interrupted; a training run continues with the same command and --resume", file=sys.stderr)
        return 130


def _show_traceback() -> None:
    """For whoever looks for a mistake in her own part."""
    if os.environ.get("DQLAB_DEBUG"):
        traceback.print_exc()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dqlab",
        description="Reproduce, ablate and extend Diffusion-QL (Wang, Hunt, Zhou 2022).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dqlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_eval(commands)
    _add_list(commands)
    _add_describe(commands)
    _add_check(commands)
    _add_new_plugin(commands)
    _add_collect(commands)
    _add_sync(commands)
    _add_bench(commands)
    _add_figure(commands)
    _add_compare(commands)
    _add_ui(commands)
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="import a module of yours first"
    )
    return parser


def _add_gin(parser: argparse.ArgumentParser, required: bool = True) -> None:
    text = "gin file, of yours or of those that ship with dqlab; later ones override"
    parser.add_argument("--gin", action="append", required=required, default=None, metavar="FILE", help=text)
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="one binding, e.g. DiffusionQL.eta=0.5",
    )


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", _train, "Train what a gin file describes, one or many seeds together.")
    _add_gin(parser, required=False)
    parser.add_argument("--seeds", type=int, nargs="+", help="one replica each (Experiment.seeds)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (Experiment.device)")
    parser.add_argument("--steps", type=int, help="updates in all (Training.steps)")
    parser.add_argument("--cell", metavar="LABEL", help="one cell of an ablation's file, e.g. --cell N=10")
    parser.add_argument("--out", type=Path, help="the run's folder; runs/NAME-TIME by default")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out (or the newest one by default)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record some 50 updates with torch's profiler: RUN/profile/summary.md, and a trace for Perfetto",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no table; warnings go to stderr")


def _add_eval(commands: Any) -> None:
    parser = _command(commands, "eval", _eval, "Evaluate a run's checkpoint, or an official one, on its task.")
    parser.add_argument("run", nargs="?", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", default="last", help="last, best, offline, or a .safetensors file")
    parser.add_argument("--seed", type=int, help="which replica; all of them by default")
    parser.add_argument("--episodes", type=int, help="episodes; as many as in training by default (official: 10)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; as in training by default")
    parser.add_argument(
        "--official", type=Path, metavar="DIR", help="folder of the official code's actor_*.pth, critic_*.pth"
    )
    parser.add_argument("--epoch", help="which official checkpoint; the latest by default")
    parser.add_argument("--task", help="the official checkpoint's task")
    _add_set(parser)


def _add_list(commands: Any) -> None:
    parser = _command(commands, "list", _list, "List the parts that gin files can choose, with parameters and sources.")
    parser.add_argument("kind", nargs="?", help="one kind only, e.g. noise_schedule")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known of each part, as JSON")
    form.add_argument("--markdown", action="store_true", help="tables of dqlab's own parts: docs/components.md")


def _add_describe(commands: Any) -> None:
    parser = _command(
        commands, "describe", _describe, "Describe one part: parameters, gin example, the contract of its kind."
    )
    parser.add_argument("kind", help="e.g. noise_schedule")
    parser.add_argument("name", nargs="?", default="", help="e.g. vp")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", _check, "Put every part of an installed plugin through the conformance suite.")
    parser.add_argument("name", metavar="PLUGIN", help="its entry point, its distribution, or a module")


def _add_new_plugin(commands: Any) -> None:
    text = "Write a package of your own with a part of each of five kinds, which passes `dqlab check`."
    parser = commands.add_parser("new-plugin", help=text, description=text)
    parser.set_defaults(command=_new_plugin)
    parser.add_argument("name", help="of the package, e.g. mylab or my-lab")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to be made; ./NAME by default")


def _add_collect(commands: Any) -> None:
    parser = _command(
        commands,
        "collect",
        _collect,
        "Make a D4RL-style dataset: train behaviour policies (PPO), roll two of them out.",
    )
    _add_gin(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("collected"), help="folder; a second call reuses what is there"
    )


def _add_sync(commands: Any) -> None:
    parser = _command(commands, "sync", _sync, "Send to MLflow what could not be sent while a run was training.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")


def _add_bench(commands: Any) -> None:
    text = "Compare, report or send what `pytest benchmarks/` measured."
    doors = commands.add_parser("bench", help=text, description=text).add_subparsers(required=True, metavar="COMMAND")
    compare = _command(doors, "compare", _bench_compare, "Show each benchmark's history, and say which got worse.")
    _add_figures(compare)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    report = _command(doors, "report", _bench_report, "Write the latest figures as a Markdown table and plots.")
    _add_figures(report)
    report.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/report"), help="folder; runs/benchmarks/report by default"
    )
    send = _command(doors, "send", _bench_send, "Send to MLflow what could not be sent after the benchmarks.")
    send.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    _add_uri(send)


def _add_figure(commands: Any) -> None:
    text = "Train what a figure of the paper shows, and draw it."
    doors = commands.add_parser("figure", help=text, description=text).add_subparsers(required=True, metavar="FIGURE")
    bandit = _command(doors, "bandit", _figure_bandit, "The 2D bandit: four policies by cloning, four by Q-learning.")
    bandit.add_argument("--out", type=Path, default=Path("runs/bandit"), help="folder; runs/bandit by default")
    bandit.add_argument("--steps", type=int, help="updates of every run (Training.steps)")
    bandit.add_argument("--samples", type=int, default=1000, help="actions drawn from each policy; 1000 by default")
    bandit.add_argument("--fresh", action="store_true", help="train again what has been trained before")
    _add_set(bandit)


def _add_compare(commands: Any) -> None:
    text = "Say what differs between runs, and what they score, with intervals over seeds."
    parser = _command(commands, "compare", _compare, text)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run, a grid or a pack, or an MLflow run id")
    parser.add_argument("--experiment", metavar="NAME", help="all runs of an MLflow experiment")
    parser.add_argument("--filter", default="", help="MLflow's, e.g. \"params.N = '5'\"; with --experiment")
    parser.add_argument("--rule", nargs="+", help="selection rules: last, offline, best-online (these by default), ...")
    parser.add_argument("--json", action="store_true", help="as JSON")
    _add_uri(parser)


def _add_ui(commands: Any) -> None:
    parser = _command(commands, "ui", _ui, "Open MLflow's pages on the runs that were recorded here.")
    parser.add_argument("place", nargs="?", metavar="DIR|URI", help="runs, one run, a grid, or MLflow's tracking URI")
    parser.add_argument("--port", type=int, default=5000, help="the next free one from it; 5000 by default")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")


def _add_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", help="MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db here, by default")


def _add_figures(parser: argparse.ArgumentParser) -> None:
    text = "written by pytest --benchmark-json or --mlflow; MLflow's figures if none is named"
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json", help=text)
    _add_uri(parser)
    parser.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")


def _load(args: argparse.Namespace, extra: Sequence[str] = ()) -> Any:
    from dqlab import configuration
    from dqlab.plugins import load_plugins

    load_plugins()
    return configuration.load(args.gin, [*args.set, *extra], args.plugin)


def _train(args: argparse.Namespace) -> int:
    from dqlab.report import print_finished
    from dqlab.running import train

    chosen = {
        "Experiment.seeds": args.seeds and tuple(args.seeds),
        "Experiment.device": args.device,
        "Training.steps": args.steps,
    }
    stem = Path(args.gin[-1]).stem if args.gin else "*"
    if args.cell:
        stem += "-" + re.sub(r"[^\w.=+-]+", "-", args.cell)
    folder = args.out or _default_folder(stem, args.resume)
    args.gin = args.gin or [_own_config(folder, args.resume)]
    if args.cell:
        args.set = [*_cell(args), *args.set]
    loaded = _load(args, [f"{name}={value!r}" for name, value in chosen.items() if value is not None])
    finished = train(loaded, folder, resume=args.resume, quiet=args.quiet, profile=args.profile)
    if not args.quiet:
        print_finished(finished)
    finished.check_complete()
    return 0


def _cell(args: argparse.Namespace) -> list[str]:
    """What the chosen cell of a grid file sets."""
    from dqlab.ablation.grid import Grid

    _load(args)
    cell, given = Grid().cell(args.cell), {binding.partition("=")[0].strip() for binding in args.set}
    for name in sorted(given & set(cell.bindings)):
        print(f"dqlab: warning: --set {name} overrides the cell '{cell.label}'", file=sys.stderr)
    return cell.as_text()


def _default_folder(stem: str, resume: bool) -> Path:
    if not resume:
        second = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{stem}-{second}-{os.getpid()}"  # two runs may start in the same second
    earlier = Path("runs").glob(f"{stem}-2*/run.json")
    unfinished = sorted(path.parent for path in earlier if '"state": "running"' in path.read_text())
    if not unfinished:
        raise ConfigError(f"There is no unfinished run runs/{stem}-* to resume. Name it with --out.")
    return unfinished[-1]


def _own_config(folder: Path, resume: bool) -> Path:
    """The configuration that a run stored, for a resume that names none."""
    if resume and not (folder / "config.gin").exists():
        raise ConfigError(f"There is no run in {folder} to resume. Name a gin file to start one there.")
    if not resume:
        raise ConfigError("Name a gin file, for example --gin gin/quickstart.gin (dqlab train --help).")
    return folder / "config.gin"


def _eval(args: argparse.Namespace) -> int:
    from dqlab.plugins import load_plugins
    from dqlab.report import evaluate_official, evaluate_run

    if (args.run is None) == (args.official is None):
        raise ConfigError("dqlab eval wants either a run's folder, or --official DIR with --task NAME.")
    if args.run is not None and (args.task or args.epoch):
        raise ConfigError("--task and --epoch belong to --official; a run knows its own task.")
    load_plugins(args.plugin)
    bindings = [*args.set, *([f"Experiment.device={args.device!r}"] if args.device else [])]
    if args.official is not None:
        evaluate_official(
            args.official, args.task, args.epoch, 10 if args.episodes is None else args.episodes, bindings
        )
    else:
        evaluate_run(args.run, args.checkpoint, args.seed, args.episodes, bindings)
    return 0


def _list(args: argparse.Namespace) -> int:
    from dqlab import catalogue
    from dqlab.plugins import load_plugins

    load_plugins(args.plugin)
    if args.json or args.markdown:
        print(catalogue.as_json(args.kind) if args.json else catalogue.markdown(args.kind))
    else:
        catalogue.print_parts(args.kind)
    return 0


def _describe(args: argparse.Namespace) -> int:
    from dqlab import description
    from dqlab.plugins import load_plugins

    load_plugins(args.plugin)
    print((description.describe_json if args.json else description.describe)(args.kind, args.name))
    return 0


def _check(args: argparse.Namespace) -> int:
    from dqlab.plugins import load_plugins
    from dqlab.testing import examine

    load_plugins(args.plugin)
    failed = False
    try:
        for kind, name, trouble in examine(args.name):
            print(f"{kind} '{name}': {trouble or 'ok'}", flush=True)
            failed |= bool(trouble)
    except AssertionError as error:  # it registers nothing
        print(f"dqlab: {error}", file=sys.stderr)
        return 1
    return int(failed)


def _new_plugin(args: argparse.Namespace) -> int:
    from dqlab.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))
    return 0


def _collect(args: argparse.Namespace) -> int:
    from dqlab.collection.recipe import Collection

    _load(args)
    print(Collection().run(args.out))
    return 0


def _sync(args: argparse.Namespace) -> int:
    from dqlab.report import sync

    for run in args.runs:
        sync(run)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from dqlab.comparison.command import run

    run(args.runs, args.experiment, args.filter, args.uri, args.rule, args.json)
    return 0


def _ui(args: argparse.Namespace) -> int:
    from dqlab.tracking.ui import serve

    return serve(args.place, args.host, args.port)


def _figure_bandit(args: argparse.Namespace) -> int:
    from dqlab.figures import bandit
    from dqlab.plugins import load_plugins

    load_plugins(args.plugin)
    steps = [f"Training.steps={args.steps}"] if args.steps is not None else []
    bandit.make(args.out, [*args.set, *steps], args.samples, args.fresh)
    return 0


def _bench_compare(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.comparison import compare
    from dqlab.benchmarking.history import read

    worse = compare(read(args.files, args.uri, args.machine))
    return 1 if worse and args.fail else 0


def _bench_report(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.history import read
    from dqlab.benchmarking.report import write_reports

    print(*write_reports(read(args.files, args.uri, args.machine), args.out), sep="\n")
    return 0


def _bench_send(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.store import send, the_uri

    for path in args.files:
        send(path, the_uri(args.uri))
        print(f"{path}: MLflow ({the_uri(args.uri)}) has all of it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
