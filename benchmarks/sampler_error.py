"""How far samplers of K steps end from the exact solution, and with which order that falls: a Markdown table.

    python benchmarks/sampler_error.py

The target is Gaussian, so its denoiser and where a chain must end are known in closed form
(`dqlab.tools.conformance.diffusion`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DDPM, DPMSolverPP, Heun, Sampler
from dqlab.diffusion.schedules import build_betas, strides
from dqlab.tools.conformance.diffusion import error_of, even_process

STEPS = (5, 8, 16, 32, 64, 128)
SAMPLERS: dict[str, Sampler] = {
    "`ddpm`": DDPM(),
    "`ddim`, eta = 1": DDIM(eta=1.0),
    "`ddim`, eta = 0.5": DDIM(eta=0.5),
    "`ddim`, eta = 0": DDIM(),
    "`dpm_solver_pp`, order 1": DPMSolverPP(order=1),
    "`dpm_solver_pp`, order 2": DPMSolverPP(order=2),
    "`dpm_solver_pp`, order 3": DPMSolverPP(order=3),
    "`heun`": Heun(),
}
FEW = (5, 10, 20, 50)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(corner: str, steps: Sequence[int], errors: dict[str, list[float]]) -> str:
    """One line a sampler: its errors, and the order between the last two; K timesteps have K - 1 intervals."""
    finer = math.log((steps[-1] - 1) / (steps[-2] - 1))
    head = [row(corner, *(f"K = {k}" for k in steps), "order"), row(*["---"] * (len(steps) + 2))]
    lines = [
        row(name, *(f"{error:.1e}" for error in found), f"{math.log(found[-2] / found[-1]) / finer:.2f}")
        for name, found in errors.items()
    ]
    return "\n".join([*head, *lines])


def main() -> None:
    even = {name: [error_of(sampler, even_process(k)) for k in STEPS] for name, sampler in SAMPLERS.items()}
    print(table("sampler", STEPS, even))
    process = Process.from_betas(build_betas("linear", 1000))
    respaced = {
        f"{name}, `{stride}`": [error_of(replace(SAMPLERS[name], steps=k, stride=stride), process) for k in FEW]
        for name in ("`ddpm`", "`ddim`, eta = 0", "`dpm_solver_pp`, order 2", "`heun`")
        for stride in strides.names()
    }
    print("\n" + table("sampler, stride", FEW, respaced))


if __name__ == "__main__":
    main()
