"""Training for as long as there is time: eight seeds of Diffusion-QL in one pack, on a walker2d set."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects import DIMS, new_mode, synchronizer

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.training import Evaluator, Pack
from dqlab.training.programs import Step
from gpu.data import TASK, load
from gpu.notes import Notes
from gpu.settings import Settings

SEEDS = 8
STRETCH = 200
"""Updates between looks at the clock."""
ACTING = {"actor": "parameters", "critic_target": "targets"}
"""What acting needs, and where a pack's state holds it."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's t, 97.5%, for means of that many seeds."""
COMPILING = 90.0
"""Seconds without which compiling is not begun."""
CLOSING = 15.0
"""Seconds kept for the last evaluation and for writing."""


def run(settings: Settings, notes: Notes) -> None:
    data = notes.attempt("data", partial(_facts, settings))
    if data is None:
        return
    for mode in reversed(settings.fast_modes):  # compiled and captured, if it can be; else captured
        if "compile" in mode and settings.left() < COMPILING and len(settings.fast_modes) > 1:
            continue
        result = notes.attempt(f"training, {mode}", partial(train, settings, notes, mode))
        if result is not None:
            break
    notes.attempt("curve", partial(draw, settings, notes))


def _facts(settings: Settings) -> dict[str, Any]:
    data = load(settings.data)
    origin = data.provenance
    score = TASK.score(origin.return_mean)
    return {"source": origin.source, "digest": origin.digest, "transitions": len(data), "its mean score": score}


def new_students(device: str) -> Pack:
    """Eight seeds with the paper's hyper-parameters for this task, but a constant learning rate: no end is known."""
    return Pack([DiffusionQL(grad_norm=5.0)] * SEEDS, DIMS, range(SEEDS), device=device)


def train(settings: Settings, notes: Notes, mode: str) -> dict[str, float]:
    """Train until the time is over; weights are kept, and evaluated where MuJoCo is installed, at equal distances."""
    pack, data = new_students(settings.device), load(settings.data).to(settings.device, torch.float32)
    step, examiner = Step(pack, data, settings.sizes.batch, new_mode(mode)), Examiner(settings)
    started, trained = time.time(), 0.0
    for point in range(1, settings.sizes.points + 1):
        share = (settings.left() - CLOSING) / (settings.sizes.points + 1 - point) - examiner.seconds
        trained += _train_until(step, time.time() + share)
        if examiner.able or point % 2 == 0:  # every other one is enough where they are to be carried elsewhere
            _keep(settings, pack, point)
        if examiner.able:
            notes.attempt(f"evaluation {point}", partial(examiner.examine, pack))
    losses = {name: float(sums.mean()) / pack.state.step for name, sums in step.take_sums().items()}
    rate = pack.state.step / trained
    return {"updates": pack.state.step, "updates/s": rate, "seconds": time.time() - started, **losses}


def _train_until(step: Step, when: float) -> float:
    """Train; returns the seconds that it took."""
    started, wait = time.time(), synchronizer(step.pack.device.type)
    while True:
        for _ in range(STRETCH):
            step()
            if step.pack.device.type == "cpu" and time.time() >= when:
                break
        wait()
        if time.time() >= when:
            return time.time() - started


def _keep(settings: Settings, pack: Pack, point: int) -> None:
    """Write the weights that acting needs. Where they can be evaluated at once, the last ones only are kept."""
    kept = {name: getattr(pack.state, where)[name].cpu() for name, where in ACTING.items()}
    path = settings.out / ("weights-last.pt" if Examiner(settings).able else f"weights-{point}.pt")
    torch.save({"step": pack.state.step, "weights": kept, "source": load(settings.data).provenance.source}, path)


@cache
def _plays() -> bool:
    """Whether the task's environment can be made here: gymnasium and mujoco need packages of their own, too."""
    try:
        import gymnasium

        gymnasium.make(TASK.env_id).close()
    except Exception as error:
        print(f"No episodes are played here: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        return False
    return True


class Examiner:
    """Evaluates a pack on the task's faithful physics, where gymnasium and MuJoCo are installed."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self.seconds = settings, 0.0
        self._mode = new_mode("cuda_graph" if settings.on_gpu else "eager")
        self._evaluator = Evaluator(TASK, "mujoco210", settings.sizes.episodes)
        self.able = _plays()

    def examine(self, pack: Pack) -> dict[str, Any]:
        """Each seed's mean score, and their mean with its interval."""
        started = time.time()
        episodes = self._evaluator.run(pack, pack.state.step, self._mode)
        self.seconds = time.time() - started
        scores = [float(TASK.score(each.returns).mean()) for each in episodes]
        mean, half = mean_and_half(scores)
        return {"step": pack.state.step, "score": mean, "+-": half, "seconds": self.seconds, "scores": scores}


def mean_and_half(scores: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds, and half its 95% interval by Student's t."""
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
    return float(np.mean(scores)), STUDENT.get(len(scores), math.nan) * spread / math.sqrt(len(scores))


def evaluate_kept(settings: Settings, notes: Notes) -> None:
    """Play episodes with the weights that an earlier run kept, in order."""
    folder: Path = settings.evaluate or settings.out
    pack, examiner = new_students(settings.device), Examiner(settings)
    for path in sorted(folder.glob("weights-*.pt")):
        kept = torch.load(path, map_location=settings.device, weights_only=True)
        notes.add("data", {"source": kept["source"]})
        pack.state.step = kept["step"]
        for name, where in ACTING.items():
            getattr(pack.state, where)[name].copy_(kept["weights"][name])
        notes.attempt(f"evaluation {path.stem.removeprefix('weights-')}", partial(examiner.examine, pack))
    notes.attempt("curve", partial(draw, settings, notes))


def draw(settings: Settings, notes: Notes) -> str:
    """The learning curve of what was evaluated so far, as a PNG."""
    found = [value for name, value in notes.mine().items() if name.startswith("evaluation") and "step" in value]
    if not found:
        return "nothing was evaluated"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found.sort(key=lambda point: point["step"])
    steps = [point["step"] for point in found]
    mean, half = (np.array([point[name] for point in found], dtype=float) for name in ("score", "+-"))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(steps, np.array([point["scores"] for point in found]), color="C0", alpha=0.25, linewidth=0.8)
    axes.plot(steps, mean, color="C0", marker="o", markersize=3, label="mean of 8 seeds")
    axes.fill_between(steps, mean - half, mean + half, alpha=0.2, label="95% interval (Student's t over seeds)")
    source = notes.mine().get("data", {}).get("source", "unknown data")
    axes.set(xlabel="updates", ylabel="D4RL score", title=f"Diffusion-QL, walker2d, {source}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(settings.out / "curve.png", dpi=120)
    return str(settings.out / "curve.png")
