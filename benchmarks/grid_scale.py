"""What a large grid costs beside its training: planning, the driver, MLflow, statistics, the report.

    python benchmarks/grid_scale.py --cells 10000 --folder /tmp/large

Nothing is trained: an engine writes made-up results where packs would. All else is what `dqlab ablate` does. Prints
seconds of each stage, the driver's peak memory, and how many cells a second go into MLflow.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SEEDS = 5
METRIC_POINTS = 100


def grid_text(cells: int) -> str:
    """A grid of so many cells: values of eta x 5 seeds."""
    values = tuple(round(0.001 * (index + 1), 3) for index in range(cells // SEEDS))
    return (
        "include 'gin/diffql_walker2d.gin'\n"
        "load_dataset.sources = ('embedded',)\n"
        f"Grid.axes = {{'eta': {{'DiffusionQL.eta': {values}}}}}\n"
        f"Grid.seeds = {tuple(range(SEEDS))}\n"
        "Grid.engine = 'made_up'\n"
    )


def register_engine() -> None:
    """The engine that trains nothing."""
    from dqlab.ablation.engines.base import FINISHED, Ended, Job, OnEvent, engines

    @engines.register("made_up", source="this file")
    class MadeUp:
        """Writes what packs would write."""

        def slots(self) -> int:
            """Packs at a time."""
            return 64

        def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
            """Every job ends at once, with results."""
            for job in jobs:
                write_pack(job.folder)
                on_event(job, {"event": "started", "step": 0, "steps": 100})
                yield Ended(job, FINISHED)

        def stop(self) -> None:
            """Nothing is running."""


def write_pack(folder: Path) -> None:
    """The files of a finished pack, with made-up numbers."""
    from dqlab.config.gin_files import parse_bindings

    replicas = parse_bindings((folder / "pack.gin").read_text())["Experiment.replicas"]
    for name, facts in replicas.items():
        write_cell(folder / name, facts)
    known = {name: {key: facts[key] for key in ("seed", "cell", "points")} for name, facts in replicas.items()}
    run = {"replicas": known, "seeds": [facts["seed"] for facts in replicas.values()], "state": "finished", **FACTS}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.gin").write_text((folder / "pack.gin").read_text())


FACTS = {
    "task": "walker2d-medium-expert-v2",
    "algorithm": "diffusion_ql",
    "physics": "mujoco210",
    "device": "cpu",
    "device_name": "none",
    "execution": "eager",
    "git_commit": "",
    "caveat": "not D4RL",
    "data": {"source": "embedded", "digest": "", "is_d4rl": False, "return_mean": 0.0},
    "versions": {"dqlab": "made up"},
    "variants": {},
    "parameters": {},
    "cell": "",
}


def write_cell(folder: Path, facts: dict[str, object]) -> None:
    """A cell's summary, journal, configuration."""
    folder.mkdir(exist_ok=True)
    score = 50.0 + hash((str(facts["cell"]), facts["seed"])) % 1000 / 50
    row = {"step": 100, "score_mean": score, "score_std": 1.0, "return_mean": 10.0}
    rules = ("last", "offline", "best_online", "mean_last_10")
    evaluation = {**row, "return_std": 1.0, "selection_loss": 0.1, "losses": {}}
    summary = {
        **{key: FACTS[key] for key in ("task", "algorithm", "physics", "caveat")},
        "seed": facts["seed"],
        "steps": 100,
        "selection": {rule: {"rule": rule, **row} for rule in rules},
        "untrained": None,
        "data_return_mean": 10.0,
        "evaluations": [{**evaluation, "step": 20 * (index + 1)} for index in range(5)],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.gin").write_text("# made up\n")
    now = time.time()
    records = [{"step": 5 * i, "time": now, "metrics": {f"train/{n}": 1.0 for n in range(5)}} for i in range(20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def peak() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run a grid of nothing, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/grid-scale"))
    parser.add_argument("--mlflow", action="store_true", help="send it to MLflow afterwards, and time that")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    file = args.folder / "large.gin"
    file.write_text(grid_text(args.cells))

    from rich.console import Console

    from dqlab.ablation.driver import GridRequest, ablate, open_session

    out = args.folder / "grid"
    request = GridRequest([file], ["Tracking.mlflow=False"], [], out)
    started = time.perf_counter()
    session = open_session(request, planning_only=True)
    print(
        f"{len(session.cells):,} cells planned in {time.perf_counter() - started:.1f} s, {len(session.packs):,} packs"
    )
    print(f"memory then: {peak():.0f} MB")
    started = time.perf_counter()
    ablate(request, Console(quiet=True))
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"driver from start to report: {time.perf_counter() - started:.0f} s; peak memory {peak():.0f} MB")
    print(f"the report's process: {child.ru_utime:.0f} s of CPU, peak memory {child.ru_maxrss / 1024:.0f} MB")
    started = time.perf_counter()
    ablate(request, Console(quiet=True))
    print(f"again, with nothing left to do: {time.perf_counter() - started:.0f} s")
    if args.mlflow:
        time_mlflow(out, args.cells)


def time_mlflow(out: Path, cells: int) -> None:
    """Send all of it, in a process of its own, as `dqlab sync` does."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "dqlab", "sync", str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - started
    print(f"MLflow: {seconds:.0f} s, {cells / seconds:.1f} cells a second, {METRIC_POINTS} points each")


if __name__ in ("__main__", "__mp_main__"):  # the process that makes the report imports this file, too
    register_engine()

if __name__ == "__main__":
    main()
