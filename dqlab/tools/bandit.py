"""`dqlab figure bandit`: eight policies, by behaviour cloning and by Q-learning, beside the data (Diffusion-QL)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings
from dqlab.config.gin_state import parameters_read
from dqlab.config.identity import changed_results
from dqlab.data import load_dataset
from dqlab.envs.bandit import BANDIT, BEST, MODES, RADIUS, modes_of
from dqlab.errors import ConfigError, RunError
from dqlab.files import atomic_path, read_text, write_text
from dqlab.noise import draw_noise, generator_for
from dqlab.printing import Console, markdown_table
from dqlab.runs import Experiment, train
from dqlab.runs.experiment import Tracking, check_experiment, load_data
from dqlab.runs.load_policy import load_policies
from dqlab.tracking import RunFolder

Array = NDArray[Any]


class FigureRow(NamedTuple):
    """A row of the figure: the data, coloured by rewards or not; then policies, label -> gin file."""

    title: str
    rewards: bool
    panels: Mapping[str, str]


# The paper's figure.
KINDS = ("Gaussian", "CVAE", "MMD", "Diffusion")
CLONED = {kind: f"gin/bandit/bc_{kind.lower()}.gin" for kind in KINDS}
IMPROVED = {f"{kind}-QL": f"gin/bandit/ql_{kind.lower()}.gin" for kind in KINDS}
ROWS = (FigureRow("Behaviour cloning", False, CLONED), FigureRow("Policy improvement by Q-learning", True, IMPROVED))


def mode_coverage(actions: Array) -> dict[str, Any]:
    """What action samples (n, 2) cover of the four modes; a RunError where there are none, or some are not finite.

    Returns:
        `samples`, n; `on_modes`, the share of them within 0.25 of a mode; `entropy` of the distribution over modes of
        those near one, in nats, and `entropy_share` of log 4 = 1.386, where all four are equal; `on_best`, the share of
        all samples that are within 0.25 of the best mode (lower right); `counts` near each mode.
    """
    if len(actions) == 0 or not np.isfinite(actions).all():
        raise RunError("Numbers of a policy want at least one sample, and finite ones.")
    modes = modes_of(actions)
    counts = np.bincount(modes[modes >= 0], minlength=len(MODES))
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    entropy = float(-(shares * np.log(shares)).sum()) + 0.0
    return {
        "samples": len(actions),
        "on_modes": float((modes >= 0).mean()),
        "entropy": entropy,
        "entropy_share": entropy / float(np.log(len(MODES))),
        "on_best": float((modes == BEST).mean()),
        "counts": counts.tolist(),
    }


class Cloud(NamedTuple):
    """What a panel shows: actions (n, 2), their rewards (n,) as colour, and a line more under it."""

    title: str
    actions: Array
    rewards: Array | None = None
    note: str = ""


def draw_bandit(out: Path, bindings: Sequence[str], samples: int, rows: Sequence[FigureRow] = ROWS) -> None:
    """Train what is missing into `out`, draw the figure there (bandit.png) and write numbers.json and numbers.md.

    `bindings` hold for every run, `samples` actions are drawn from each policy. A DqlabError where a run cannot be
    trained, or is there with another configuration.
    """
    if samples < 1:
        raise ConfigError(f"--samples must be at least 1, not {samples}.")
    console = Console()
    _train(rows, out, bindings, console)
    drawn = {row.title: _clouds(row, out, bindings, samples) for row in rows}
    with atomic_path(out / "bandit.png") as temporary:
        draw_clouds(drawn).savefig(temporary, format="png", dpi=150)
    numbers, lines = [], []
    for row in rows:
        panels: list[dict[str, Any]] = []
        for gin, cloud in zip([None, *row.panels.values()], drawn[row.title], strict=True):
            c = mode_coverage(cloud.actions)
            panels.append({"label": cloud.title, "gin": gin, "trained": cloud.note, **c})
            spread = (f"{c['entropy']:.3f}", f"{c['entropy_share']:.1%}") if c["on_modes"] else ("-", "-")
            lines.append([row.title, cloud.title, f"{c['on_modes']:.1%}", *spread, f"{c['on_best']:.1%}", cloud.note])
        numbers.append({"row": row.title, "panels": panels})
    table = markdown_table(HEADS, lines, numbers=range(2, 6)) + "\n"
    write_text(out / "numbers.json", json.dumps(numbers, indent=1))
    write_text(out / "numbers.md", table)
    console.print(table, highlight=False, soft_wrap=True)
    console.print(f"Figure:  {out}/bandit.png\nNumbers: {out}/numbers.json, {out}/numbers.md", soft_wrap=True)


def _train(rows: Sequence[FigureRow], out: Path, bindings: Sequence[str], console: Console) -> None:
    """Every panel's run that is not finished, with a line each; mistakes in any show before the first is trained."""
    named = [(f"{row.title}, {label}", gin) for row in rows for label, gin in row.panels.items()]
    panels = [(label, gin, RunFolder(out / Path(gin).stem)) for label, gin in named]
    read = set[str]()
    for _, gin, folder in panels:
        loaded, experiment, _ = gin_files.load_gin([gin], bindings), Experiment(), Tracking()
        check_experiment(experiment)
        load_data(experiment)
        read |= parameters_read()
        now = gin_files.operative_text(loaded)
        before = read_text(folder.config) if folder.finished else now
        if found := changed_results(parse_bindings(before), parse_bindings(now)):
            said = f"{folder.path} holds a finished run of another configuration: {'; '.join(found)}"
            raise RunError(f"{said}. Delete it to train it again, or choose another --out.")
    gin_files.check_parameters_read(bindings, read)
    for number, (label, gin, folder) in enumerate(panels, 1):
        name, done, started = f"[{number}/{len(panels)}] {label}", "finished before", time.monotonic()
        if not folder.finished:
            with console.status(f"{name}: training"):
                train(gin_files.load_gin([gin], bindings), folder.path, resume=True, quiet=True)
            done = f"{time.monotonic() - started:.0f} s"
        steps = folder.chosen_step(folder.replicas()[0], "last")
        console.print(f"{name}: {steps:,} updates, {done}", highlight=False, soft_wrap=True)


def _clouds(row: FigureRow, out: Path, bindings: Sequence[str], samples: int) -> list[Cloud]:
    """The row's panels: as many of the data that its policies were trained with, then each policy."""
    gin_files.load_gin([next(iter(row.panels.values()))], bindings)
    data = load_dataset(BANDIT)
    action, reward = (values[:samples].double().numpy() for values in (data.action, data.reward))
    clouds = [Cloud("Ground truth, rewards", action, reward) if row.rewards else Cloud("Ground truth", action)]
    for label, gin in row.panels.items():
        folder = out / Path(gin).stem
        facts = RunFolder(folder).facts()
        note = f"{facts['parameters']['Training.steps']:,} updates, seed {facts['seeds'][0]}"
        clouds.append(Cloud(label, policy_samples(folder, samples), note=note))
    return clouds


def policy_samples(path: Path, count: int) -> Array:
    """Actions (count, A) of a finished run's last policy, its first replica's, in the state of zeros, by its seed."""
    folder = RunFolder(path)
    policy = load_policies(folder.replica(folder.replicas()[0].name))[0]
    with policy.ready():
        pack, generator = policy.pack, generator_for(policy.replica.seed, "figure", 0, policy.device)
        noise = draw_noise(pack.algorithm.sample_action_noise(pack.dims, count), generator, pack.dtype, count=1)
        state = torch.zeros(1, count, pack.dims.state, dtype=pack.dtype, device=pack.device)
        return np.asarray(pack.sample_action(state, noise)[0].double().cpu())


HEADS = ("trained by", "policy", "on a mode", "entropy (nats)", "of log 4", "on the best mode", "trained for")
ON, OFF, RING, TEXT = "#1f6fb4", "#e4572e", "#9aa3ad", "#30363d"
LEGEND = f"Rings: within {RADIUS} of a mode; the thick one is the best. Blue: samples on a mode; red: all others."


def draw_clouds(rows: Mapping[str, Sequence[Cloud]]) -> Figure:
    """The figure of all rows; samples within 0.25 of a mode are blue, those in between are red."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.8 * columns + 0.4, 4.0 * len(rows) + 0.3))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.06)
    *parts, foot = figure.subfigures(len(rows) + 1, 1, squeeze=False, height_ratios=[4.0] * len(rows) + [0.3])[:, 0]
    foot.text(0.5, 0.5, LEGEND, ha="center", va="center", fontsize=9, color=TEXT)
    for part, (title, clouds) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, fontsize=13, fontweight="bold", color=TEXT)
        grid = part.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
        for axes, cloud in zip(grid, clouds, strict=False):
            _draw_cloud(axes, cloud)
        for axes in grid[len(clouds) :]:
            axes.set_visible(False)
    return figure


def _draw_cloud(axes: Any, cloud: Cloud) -> None:
    """One panel: modes, samples, numbers; the scale of rewards lies in the middle, where there are no data."""
    axes.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), axisbelow=True)
    axes.grid(color="#e6e9ec", linewidth=0.7)
    axes.tick_params(labelsize=8, length=0)
    for index, mode in enumerate(MODES):
        width = 1.8 if index == BEST else 0.9
        axes.add_patch(Circle(mode.centre, RADIUS, fill=False, edgecolor=RING, linewidth=width, zorder=2))
    plain = np.where(modes_of(cloud.actions) >= 0, ON, OFF)
    colours, alpha = (plain, 0.45) if cloud.rewards is None else (cloud.rewards, 0.7)
    drawn = axes.scatter(*cloud.actions.T, s=7, c=colours, alpha=alpha, linewidths=0, zorder=3)
    if cloud.rewards is not None:
        bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((0.27, 0.475, 0.46, 0.035)), orientation="horizontal")
        bar.ax.tick_params(labelsize=7, length=2, pad=1)
        bar.ax.set_title("reward", fontsize=8, color=TEXT, pad=3)
    axes.set_title(cloud.title, fontsize=11, color=TEXT)
    c = mode_coverage(cloud.actions)
    nats = f"{c['entropy']:.2f} nats ({c['entropy_share']:.0%} of log 4)" if c["on_modes"] else "-"
    said = f"on a mode {c['on_modes']:.1%}\nentropy {nats}\non the best mode {c['on_best']:.1%}\n{cloud.note}"
    axes.set_xlabel(said.rstrip(), fontsize=9, color=TEXT, labelpad=6)
