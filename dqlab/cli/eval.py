"""`dqlab eval`: evaluate, and film."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.options import add_command, add_set
from dqlab.errors import ConfigError
from dqlab.files import expanded

EXAMPLES = """
dqlab eval runs/mine --checkpoint best --episodes 100
dqlab eval runs/mine --render walk.mp4
dqlab eval --official results/DIR --task walker2d-medium-expert-v2
"""


def add_eval(commands: Any) -> None:
    """`dqlab eval`."""
    parser = add_command(
        commands, "eval", _eval, "Evaluate a run's checkpoint, or an official one, on its task.", EXAMPLES
    )
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


def _eval(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.runs import evaluate_run
    from dqlab.runs.evaluate import evaluate_official

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
    from dqlab.runs.video import VideoRequest

    if args.render is None and (args.render_episodes is not None or args.render_size):
        raise ConfigError("--render-episodes and --render-size belong to --render FILE.")
    return VideoRequest.read(args.render, args.render_episodes, args.render_size) if args.render else None
