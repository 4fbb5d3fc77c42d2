"""One update of every algorithm, as its own gin file has it (networks, batch, chain), compiled, against the same eager.

`per second` counts updates; over that of `diffusion_ql` it is the table of docs/field.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from subjects import as_transitions, devices, made_fields, modes, new_mode, synchronizer

from dqlab.algorithms import algorithms
from dqlab.config.gin_files import load_gin
from dqlab.runs.experiment import Experiment, build_pack
from dqlab.training.programs import Step

GIN = Path(__file__).parent.parent / "gin"


@dataclass(frozen=True)
class AlgorithmCase:
    algorithm: str
    mode: str
    device: str

    @property
    def id(self) -> str:
        return f"{self.algorithm}-{self.mode}-{self.device}"


def cases(quick: bool) -> list[AlgorithmCase]:
    fast = {device: [mode for mode in modes(device) if mode != "eager"] for device in devices()}
    others = [name for name in algorithms.names() if name != "diffusion_ql"]
    names = ["diffusion_ql", *(["rebrac"] if quick else others)]
    return [AlgorithmCase(name, mode, device) for device in fast for mode in fast[device] for name in names]


def test_algorithm(measure: Callable[..., Any], case: AlgorithmCase, rows: int) -> None:
    load_gin([str(GIN / f"{case.algorithm}_walker2d.gin")], [f"Experiment.device='{case.device}'"])
    experiment = Experiment()
    data = as_transitions(made_fields(rows)).to(case.device, build_pack(experiment).dtype)
    last = max(build_pack(experiment).phases)

    def new_step(mode: str) -> Step:
        pack = build_pack(experiment)
        pack.state.step = last  # where most of a run's updates are
        return Step(pack, data, experiment.plan.batch_size, new_mode(mode))

    ours, eager = new_step(case.mode), new_step("eager")
    measure(
        ours,
        eager,
        parameters={"part": "algorithm", "batch": experiment.plan.batch_size, **asdict(case)},
        synchronize=synchronizer(case.device),
    )
