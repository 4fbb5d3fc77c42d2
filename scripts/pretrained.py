"""Make a policy that ships with dqlab of a finished run: python scripts/pretrained.py RUN NAME [EPISODES].

Of the run's best checkpoint (by its score online) only the networks that act are kept, in half precision; the scores in
its README are those of new episodes with what is kept, and the run's own by every selection rule.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import dqlab
from dqlab.runs import load_policy as policies
from dqlab.runs.export import export_policy
from dqlab.training.checkpoint import read_checkpoint, write_checkpoint

ACTING = ("actor", "critic_target")
KEPT = ("policy.json", "run.json", "config.gin")


def make(run: Path, name: str, episodes: int) -> None:
    """Write the policy's folder, and print what is in it."""
    out = Path(policies.__file__).parent / "pretrained" / name
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported"
        export_policy(run, exported, "torch", "best")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for file in KEPT:
            shutil.copyfile(exported / file, out / file)
        weights = json.loads((out / "policy.json").read_text())["weights"]
        (out / weights).parent.mkdir(parents=True)
        tensors, record = read_checkpoint(exported / weights)
        write_checkpoint(out / weights, {key: {n: v.half() for n, v in tensors[key].items()} for key in ACTING}, record)
        summary = Path(weights).parts[0] + "/summary.json"
        shutil.copyfile(exported / summary, out / summary)
        card = (exported / "README.md").read_text()
    found = dqlab.evaluate(dqlab.load_policy(out), episodes=episodes)
    score = f"{found.score.mean():.1f} +- {found.score.std(ddof=0):.1f}"
    scores = f"Kept in half precision, it scores {score} in {episodes} new episodes.\n"
    (out / "README.md").write_text(
        card.partition("\n`policy.")[0] + f"\n\n{scores}\n" + card[card.index("**not D4RL") :]
    )
    print(scores, *(f"{path.stat().st_size:>9,} {path}" for path in sorted(out.rglob("*")) if path.is_file()), sep="\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100)
