"""Every algorithm, and behaviour cloning with every policy class, trained on one dataset: a Markdown table.

    python benchmarks/all_algorithms.py --data FILE.hdf5 --steps 20000 --out runs/all

A sanity check that none is broken: one seed and a small budget, not a comparison of methods. A run is an ordinary run
of `dqlab train` with the algorithm's own gin file; what is finished in the folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from dqlab.algorithms import algorithms
from dqlab.policies import policies

WIDTH = 256
WIDER = (
    *("CVAEPolicy", "MLPDenoiser", "Perturbation", "TanhGaussianPolicy", "ValueNetwork"),
    *("LowerBoundEnsemble", "MeanEnsemble", "MinimumEnsemble", "SoftClippedEnsemble"),
)
COMMON = [f"{part}.hidden_dim={WIDTH}" for part in WIDER]
"""All networks have the width of the paper's: BCQ's, BEAR's and FQL's own are up to three times as wide."""


def runs() -> dict[str, list[str]]:
    """Name of each run -> its gin file and bindings."""
    plain = {name: [f"gin/{name}_walker2d.gin"] for name in algorithms.names() if name != "bc"}
    cloned = {f"bc, {name}": ["gin/bc_walker2d.gin", f"BehaviourCloning.policy={name}"] for name in policies.names()}
    return plain | cloned


def train(name: str, file: str, bindings: list[str], args: argparse.Namespace) -> Path:
    """Train one, if it is not finished; returns the run's folder."""
    folder: Path = args.out / name.replace(", ", "-")
    facts = folder / "run.json"
    if facts.exists() and json.loads(facts.read_text()).get("state") == "finished":
        return folder
    given = [
        f"load_dataset.sources=('file:{args.data}',)",
        f"Training.eval_every={args.steps // 4}",
        *bindings,
    ]
    common = args.out / "common.gin"  # in a file what an algorithm does not read is no mistake
    command = [sys.executable, "-m", "dqlab", "train", "--gin", file, "--gin", str(common)]
    command += ["--steps", str(args.steps)]
    command += ["--out", str(folder), "--resume", "-q", "--set", *given, "Tracking.mlflow=False"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(name, "done" if done.returncode == 0 else done.stderr[-500:], file=sys.stderr, flush=True)
    return folder


def speed(folder: Path) -> float:
    """Median updates a second of the run's logs."""
    lines = (folder / "seed-0" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["metrics"].get("train/updates_per_second") for line in lines]
    return median(value for value in logged if value)


def row(name: str, folder: Path) -> str:
    """A run's line of the table."""
    if not (folder / "seed-0" / "summary.json").exists():
        return f"| {name} | did not finish |"
    summary: dict[str, Any] = json.loads((folder / "seed-0" / "summary.json").read_text())
    chosen, last = summary["selection"], summary["evaluations"][-1]
    losses = ", ".join(f"{key} {value:.3g}" for key, value in sorted(last["losses"].items()) if key.endswith("loss"))
    scores = " | ".join(f"{chosen[rule]['score_mean']:.1f}" for rule in ("last", "offline", "best_online"))
    return f"| {name} | {losses} | {scores} | {speed(folder):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a file in D4RL's layout, of walker2d")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("runs/all"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    args = parser.parse_args()
    args.data = args.data.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "common.gin").write_text("\n".join(COMMON) + "\n")
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {name: pool.submit(train, name, file, more, args) for name, (file, *more) in runs().items()}
    folders = {name: job.result() for name, job in jobs.items()}
    print("| algorithm | losses, mean of the last quarter | score: last | offline | best online | updates/s |")
    print("|---|---|---|---|---|---|")
    print(*(row(name, folder) for name, folder in folders.items()), sep="\n")


if __name__ == "__main__":
    main()
