"""What a run is told, and its sizes: those of the paper, or tiny ones that show on a CPU that everything runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        batch: B of an update.
        updates: how many are compared between modes, and timed in a row.
        counted: how many are watched for waits of the host; some of them draw new noise.
        packs: K, the most telling first.
        checked: K of the comparisons; as many as are trained, so that compiled code is shared.
        steps, states: N and B of the sampler.
        product: side of the largest matrices.
        copied: bytes of the copy.
        episodes: of an evaluation, of each seed.
        door: updates of the run through `dqlab train`.
        points: evaluations of a training.
    """

    batch: int = 256
    updates: int = 50
    counted: int = 300
    packs: tuple[int, ...] = (64, 8, 1, 16, 4, 128)
    checked: int = 8
    steps: tuple[int, ...] = (5, 1, 10, 50)
    states: tuple[int, ...] = (256, 1, 2560)
    product: int = 8192
    copied: int = 2**31
    episodes: int = 5
    points: int = 8
    door: int = 2000


TINY = Sizes(8, 4, 101, (2, 1), 2, (2,), (4,), 128, 2**20, 1, 2, 100)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="gpu.sh", description=__doc__)
    made.add_argument("--device", default="cuda")
    made.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")
    made.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where results go; $OUT for gpu.sh")
    made.add_argument(
        "--until", type=float, help="seconds from the start after which training ends: 450; 420 with --smoke"
    )
    made.add_argument("--data", type=Path, help="a D4RL file of walker2d to train on, instead of the embedded set")
    made.add_argument("--modes", help="execution modes, separated by commas; all that this machine can run by default")
    made.add_argument(
        "--only",
        help="sections, separated by commas: machine, door, correctness, waits, figures, details, training, variants; "
        "all but the last by default. They share the time out between them then, and earlier results stay",
    )
    made.add_argument("--evaluate", type=Path, metavar="DIR", help="play episodes with the weights of an earlier run")
    made.add_argument("--section", help=argparse.SUPPRESS)
    made.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    return made


class Settings:
    """The command line, understood."""

    def __init__(self, argv: Sequence[str]) -> None:
        args = parser().parse_args(argv)
        self.device: str = args.device
        self.smoke: bool = args.smoke
        self.out: Path = args.out
        self.until: float = args.until or (420.0 if args.smoke else 450.0)
        self.data: Path | None = args.data
        self.evaluate: Path | None = args.evaluate
        self.section: str | None = args.section
        self.deadline: float = args.deadline
        self.only: list[str] | None = args.only.split(",") if args.only else None
        self._modes: list[str] | None = args.modes.split(",") if args.modes else None
        self.sizes = TINY if self.smoke else Sizes()

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def modes(self) -> list[str]:
        """The execution modes that are looked at, in the order of how soon they start and how much they tell."""
        from subjects import modes

        able = sorted(modes(self.device), key=lambda name: (name != "eager", "compile" in name, name == "compile"))
        return [name for name in able if self._modes is None or name in self._modes]

    @property
    def surest_mode(self) -> str:
        """The one of those that needs no compiler."""
        return "cuda_graph" if self.on_gpu else "eager"

    @property
    def fast_modes(self) -> list[str]:
        """Those that training uses: without launches from the host, where there are such."""
        graphs = [name for name in self.modes if "cuda_graph" in name]
        return graphs or self.modes

    def left(self) -> float:
        """Seconds that this section has left."""
        return self.deadline - time.time()
