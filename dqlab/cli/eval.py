"""`dqlab eval`: evaluate, and film; `dqlab export`: a trained policy as one model."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.parser import add_command, add_set, bindings_of
from dqlab.errors import ConfigError
from dqlab.files import expanded

EVAL_EXAMPLES = """
dqlab eval runs/mine --checkpoint best --episodes 100
dqlab eval runs/mine --render walk.mp4
dqlab eval pretrained:walker2d-mini --render walk.mp4
dqlab eval --official results/DIR --task walker2d-medium-expert-v2
"""


def add_eval(commands: Any) -> None:
    """`dqlab eval`."""
    text = "Evaluate a run's checkpoint, or an official one, on its task."
    parser = add_command(commands, "eval", _eval, text, EVAL_EXAMPLES)
    parser.add_argument(
        "run", nargs="?", help="the run's folder, an exported policy's, hf:USER/REPO or pretrained:NAME"
    )
    text = "last, best, offline, or a .safetensors file"
    parser.add_argument("--checkpoint", default="last", type=expanduser, help=text)
    parser.add_argument("--seed", type=int, help="which replica; all of them by default")
    parser.add_argument("--episodes", type=int, help="episodes; as many as in training by default (official: 10)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; as in training by default")
    parser.add_argument("--env-backend", metavar="NAME", help="gymnasium, or d4rl after `make legacy`; as in training")
    text = "folder of the official code's actor_*.pth, critic_*.pth"
    parser.add_argument("--official", type=expanded, metavar="DIR", help=text)
    parser.add_argument("--epoch", help="which official checkpoint; the latest by default")
    parser.add_argument("--task", help="the official checkpoint's task")
    text = "make a video of the first episode, .mp4 or .gif; one for each replica, if there are several"
    parser.add_argument("--render", type=expanded, metavar="FILE", help=text)
    add_set(parser)


def _eval(args: argparse.Namespace) -> None:
    from dqlab.runs import evaluate_run

    if (args.run is None) == (args.official is None):
        raise ConfigError("dqlab eval wants either a run's folder, or --official DIR with --task NAME.")
    if args.run is not None and (args.task or args.epoch):
        raise ConfigError("--task and --epoch belong to --official; a run knows its own task.")
    chosen = {"Experiment.device": args.device, "Experiment.env_backend": args.env_backend}
    bindings = [*args.set, *bindings_of(chosen)]
    if args.official is None:
        evaluate_run(args.run, args.checkpoint, args.seed, args.episodes, bindings, args.render)
        return
    if args.task is None:
        raise ConfigError("--official wants --task, for example --task walker2d-medium-expert-v2.")
    episodes = 10 if args.episodes is None else args.episodes
    evaluate_run(args.official, args.epoch or "last", None, episodes, bindings, args.render, args.task)


EXPORT_EXAMPLES = """
dqlab export runs/mine --out walker
dqlab export runs/mine --seed 1 --format torch --out walker
dqlab export runs/mine --out walker --push hf:USER/REPO
"""


def add_export(commands: Any) -> None:
    """`dqlab export`."""
    text = "Write a policy as one ONNX or PyTorch model, with a card and an example."
    parser = add_command(commands, "export", _export, text, EXPORT_EXAMPLES)
    parser.add_argument("run", help="the run's folder, one replica's in it, hf:USER/REPO or pretrained:NAME")
    parser.add_argument("--out", type=expanded, required=True, help="the folder that is written")
    parser.add_argument("--format", default="onnx", choices=("onnx", "torch"), help="onnx by default")
    text = "best (by default), last, offline, or a .safetensors file"
    parser.add_argument("--checkpoint", default="best", type=expanduser, help=text)
    parser.add_argument("--seed", type=int, help="which replica, where the run has several")
    parser.add_argument("--push", default="", metavar="hf:USER/REPO", help="upload it to the Hugging Face Hub, too")


def _export(args: argparse.Namespace) -> None:
    from dqlab.runs.export import export_policy

    print(*export_policy(args.run, args.out, args.format, args.checkpoint, args.seed, args.push), sep="\n")
