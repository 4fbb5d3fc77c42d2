"""`dqlab export`: a trained policy as one model."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.options import add_command
from dqlab.files import expanded

EXAMPLES = """
dqlab export runs/mine --out walker
dqlab export runs/mine --seed 1 --format torch --out walker
dqlab export runs/mine --out walker --push hf:USER/REPO
"""


def add_export(commands: Any) -> None:
    """`dqlab export`."""
    text = "Write a policy as one ONNX or PyTorch model, with a card and an example."
    parser = add_command(commands, "export", _export, text, EXAMPLES)
    parser.add_argument("run", type=expanded, help="the run's folder, or one replica's in it")
    parser.add_argument("--out", type=expanded, required=True, help="the folder that is written")
    parser.add_argument("--format", default="onnx", choices=("onnx", "torch"), help="onnx by default")
    parser.add_argument(
        "--checkpoint", default="best", type=expanduser, help="best (by default), last, offline, or a .safetensors file"
    )
    parser.add_argument("--seed", type=int, help="which replica, where the run has several")
    parser.add_argument("--push", default="", metavar="hf:USER/REPO", help="upload it to the Hugging Face Hub, too")


def _export(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.runs.export import export_policy

    load_plugins(args.plugin)
    files = export_policy(args.run, args.out, args.format, args.checkpoint, args.seed, args.push)
    for path in files:
        print(path)
    return 0
