"""`dqlab train`, `eval`, `collect`, `figure`: runs."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from os.path import expanduser
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_gin, add_set, command, load
from dqlab.errors import ConfigError, StoppedError, message_of
from dqlab.files import expanded
from dqlab.signals import Asked, asked_to_stop

UNFINISHED = r'"state": "(running|interrupted)"'
"""In run.json."""


def add(commands: Any) -> None:
    """Add these commands."""
    _add_train(commands)
    _add_eval(commands)
    _add_collect(commands)
    _add_figure(commands)


def _add_train(commands: Any) -> None:
    parser = command(commands, "train", _train, "Train what a gin file describes, one or many seeds together.")
    add_gin(parser, required=False)
    parser.add_argument("--seeds", type=int, nargs="+", help="one replica each (Experiment.seeds)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (Experiment.device)")
    parser.add_argument("--steps", type=int, help="updates in all (Training.steps)")
    parser.add_argument("--cell", metavar="LABEL", help="one cell of an ablation's file, e.g. --cell N=10")
    parser.add_argument("--out", type=expanded, help="the run's folder; runs/NAME-TIME by default")
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
    parser = command(commands, "eval", _eval, "Evaluate a run's checkpoint, or an official one, on its task.")
    parser.add_argument("run", nargs="?", type=expanded, help="the run's folder")
    parser.add_argument(
        "--checkpoint", default="last", type=expanduser, help="last, best, offline, or a .safetensors file"
    )
    parser.add_argument("--seed", type=int, help="which replica; all of them by default")
    parser.add_argument("--episodes", type=int, help="episodes; as many as in training by default (official: 10)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; as in training by default")
    parser.add_argument("--env-backend", metavar="NAME", help="gymnasium, or d4rl after `make legacy`; as in training")
    parser.add_argument(
        "--official", type=expanded, metavar="DIR", help="folder of the official code's actor_*.pth, critic_*.pth"
    )
    parser.add_argument("--epoch", help="which official checkpoint; the latest by default")
    parser.add_argument("--task", help="the official checkpoint's task")
    _add_render(parser)
    add_set(parser)


def _add_render(parser: argparse.ArgumentParser) -> None:
    """Options of a video."""
    text = "make a video of what is evaluated, .mp4 or .gif; one for each replica, if there are several"
    parser.add_argument("--render", type=expanded, metavar="FILE", help=text)
    parser.add_argument("--render-episodes", type=int, metavar="N", help="that it shows, the first ones; 1 by default")
    parser.add_argument(
        "--render-size", metavar="WxH", help="in pixels; the environment's own by default, e.g. 480x480"
    )


def _add_collect(commands: Any) -> None:
    parser = command(
        commands,
        "collect",
        _collect,
        "Make a dataset in any continuous Gymnasium environment: policies by level (PPO), random, runs, files, mixed.",
    )
    add_gin(parser)
    parser.add_argument(
        "--out",
        type=expanded,
        default=Path("collected"),
        help="folder; a second call continues or reuses what is there",
    )
    parser.add_argument(
        "--format", action="extend", nargs="+", help="what is written: d4rl, minari, or both (Collection.formats)"
    )


def _add_figure(commands: Any) -> None:
    text = "Train what a figure of the paper shows, and draw it."
    doors = commands.add_parser("figure", help=text, description=text).add_subparsers(required=True, metavar="FIGURE")
    bandit = command(doors, "bandit", _figure_bandit, "The 2D bandit: four policies by cloning, four by Q-learning.")
    bandit.add_argument("--out", type=expanded, default=Path("runs/bandit"), help="folder; runs/bandit by default")
    bandit.add_argument("--steps", type=int, help="updates of every run (Training.steps)")
    bandit.add_argument("--samples", type=int, default=1000, help="actions drawn from each policy; 1000 by default")
    bandit.add_argument("--fresh", action="store_true", help="train again what has been trained before")
    add_set(bandit)


def _train(args: argparse.Namespace) -> int:
    from dqlab.report import print_finished
    from dqlab.running import train
    from dqlab.sending import warn_unsent

    chosen = {
        "Experiment.seeds": args.seeds and tuple(args.seeds),
        "Experiment.device": args.device,
        "Training.steps": args.steps,
    }
    stem = expanded(args.gin[-1]).stem if args.gin else "*"
    if args.cell:
        stem += "-" + re.sub(r"[^\w.=+-]+", "-", args.cell)
    folder = args.out or _default_folder(stem, args.resume)
    stored = not args.gin
    args.gin = args.gin or [_own_config(folder, args.resume)]
    typed = args.set
    if args.cell:
        args.set = [*_cell(args), *args.set]
    loaded = load(args, [f"{name}={value!r}" for name, value in chosen.items() if value is not None], stored)
    with asked_to_stop() as asked:
        try:
            tell = partial(_note_start, asked)
            options = {"resume": args.resume, "quiet": args.quiet, "profile": args.profile}
            finished = train(loaded, folder, **options, tell=tell, stop=asked.event, typed=typed)
        except (StoppedError, KeyboardInterrupt) as error:
            return _say_stopped(asked, error, folder)
    if not args.quiet:
        print_finished(finished)
    if finished.sent is False:
        warn_unsent(folder)
    finished.check_complete()
    return 0


def _note_start(asked: Asked, event: Mapping[str, Any]) -> None:
    """From the first update on there is something to save."""
    if event["event"] == "started":
        asked.saves = True


def _say_stopped(asked: Asked, error: BaseException, folder: Path) -> int:
    """What a signal has ended; the exit code is the signal's."""
    if not asked.number:
        raise error
    name, what = signal.Signals(asked.number).name, message_of(error) or "interrupted before its first update"
    with suppress(OSError):
        print(f"dqlab: {name}: {what}. dqlab train --resume --out {folder} continues.", file=sys.stderr, flush=True)
    return asked.code


def _cell(args: argparse.Namespace) -> list[str]:
    """What the chosen cell of a grid file sets."""
    from dqlab.ablation.grid import Grid

    load(args)
    cell, given = Grid().setting(args.cell), {binding.partition("=")[0].strip() for binding in args.set}
    for name in sorted(given & set(cell.bindings)):
        print(f"dqlab: warning: --set {name} overrides the cell '{cell.label}'", file=sys.stderr)
    return cell.as_text()


def _default_folder(stem: str, resume: bool) -> Path:
    if not resume:
        second = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{stem}-{second}-{os.getpid()}"  # two runs may start in the same second
    earlier = Path("runs").glob(f"{stem}-2*/run.json")
    unfinished = sorted(path.parent for path in earlier if re.search(UNFINISHED, path.read_text(errors="replace")))
    if not unfinished:
        raise ConfigError(f"There is no unfinished run runs/{stem}-* to resume. Name it with --out.")
    return unfinished[-1]


def _own_config(folder: Path, resume: bool) -> Path:
    """The configuration that a run stored, for a resume that names none."""
    from dqlab.run_folder import RunFolder

    if not resume:
        raise ConfigError("Name a gin file, for example --gin gin/quickstart.gin (dqlab train --help).")
    if (folder / "run.json").exists():
        RunFolder(folder).check(resume)
    if not (folder / "config.gin").exists():
        raise ConfigError(f"There is no run in {folder} to resume. Name a gin file to start one there.")
    return folder / "config.gin"


def _eval(args: argparse.Namespace) -> int:
    from dqlab.plugins import load_plugins
    from dqlab.report import evaluate_official, evaluate_run

    if (args.run is None) == (args.official is None):
        raise ConfigError("dqlab eval wants either a run's folder, or --official DIR with --task NAME.")
    if args.run is not None and (args.task or args.epoch):
        raise ConfigError("--task and --epoch belong to --official; a run knows its own task.")
    load_plugins(args.plugin)
    chosen = {"device": args.device, "env_backend": args.env_backend}
    bindings = [*args.set, *(f"Experiment.{name}={value!r}" for name, value in chosen.items() if value)]
    film = _film(args)
    if args.official is not None:
        episodes = 10 if args.episodes is None else args.episodes
        evaluate_official(args.official, args.task, args.epoch, episodes, bindings, film)
    else:
        evaluate_run(args.run, args.checkpoint, args.seed, args.episodes, bindings, film)
    return 0


def _film(args: argparse.Namespace) -> Any:
    """The video that is wanted, if one is."""
    from dqlab.filming.request import Film

    if args.render is None and (args.render_episodes is not None or args.render_size):
        raise ConfigError("--render-episodes and --render-size belong to --render FILE.")
    return Film.read(args.render, args.render_episodes, args.render_size) if args.render else None


def _collect(args: argparse.Namespace) -> int:
    from dqlab.collection.recipe import Collection

    load(args, [f"Collection.formats={tuple(args.format)!r}"] if args.format else [])
    for place in Collection().run(args.out, typed=args.set):
        print(place)
    return 0


def _figure_bandit(args: argparse.Namespace) -> int:
    from dqlab.figures import bandit
    from dqlab.plugins import load_plugins

    load_plugins(args.plugin)
    steps = [f"Training.steps={args.steps}"] if args.steps is not None else []
    bandit.make(args.out, [*args.set, *steps], args.samples, args.fresh)
    return 0
