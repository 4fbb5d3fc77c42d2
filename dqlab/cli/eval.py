"""`dqlab eval`: evaluate, and film; `dqlab export`: a trained policy as one model."""

from __future__ import annotations

import argparse
from os.path import expanduser

from dqlab.cli.parser import PLUGIN, SET, bindings_of, command, option, setting
from dqlab.errors import ConfigError
from dqlab.files import expanded


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
    from dqlab.runs import evaluate_run

    if (args.run is None) == (args.official is None):
        raise ConfigError("dqlab eval wants either a run's folder, or --official DIR with --task NAME.")
    if args.run is not None and (args.task or args.epoch):
        raise ConfigError("--task and --epoch belong to --official; a run knows its own task.")
    bindings = [*args.set, *bindings_of(args)]
    if args.official is None:
        evaluate_run(args.run, args.checkpoint, args.seed, args.episodes, bindings, args.render)
        return
    if args.task is None:
        raise ConfigError("--official wants --task, for example --task walker2d-medium-expert-v2.")
    episodes = 10 if args.episodes is None else args.episodes
    evaluate_run(args.official, args.epoch or "last", None, episodes, bindings, args.render, args.task)


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
    from dqlab.runs.export import export_policy

    print(*export_policy(args.run, args.out, args.format, args.checkpoint, args.seed, args.push), sep="\n")
