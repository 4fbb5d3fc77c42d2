"""The 2D bandit's figure: eight policies by behaviour cloning and by Q-learning beside the data (Diffusion-QL)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqlab.config import gin_files
from dqlab.config.gin_state import parameters_read
from dqlab.config.gin_syntax import parse_bindings
from dqlab.config.identity import changed_results
from dqlab.data import load_dataset
from dqlab.envs.bandit import BANDIT
from dqlab.errors import ConfigError, RunError
from dqlab.files import read_text, write_text
from dqlab.noise import draw_noise, generator_for
from dqlab.printing import Console
from dqlab.runs import Experiment, train
from dqlab.runs.build import build_pack, check_experiment, load_data
from dqlab.tools.bandit.drawing import Cloud, CloudRow, Coverage, draw_clouds
from dqlab.tracking import RunFolder
from dqlab.tracking.settings import Tracking
from dqlab.training import checkpoint


def train_unless_finished(gin: str, path: Path, bindings: Sequence[str] = ()) -> str:
    """Train what a gin file describes, unless the folder already holds that run; returns a line on what was done.

    Args:
        gin: the file.
        path: the run's folder.
        bindings: `Configurable.parameter=value` strings, overriding the file.

    Raises:
        RunError: the folder holds a run of another configuration.
    """
    loaded = gin_files.load_gin([gin], bindings)
    folder = RunFolder(path)
    if folder.finished:
        _check_same(folder, loaded)
        return f"finished before, {_steps(folder):,} updates"
    started = time.monotonic()
    train(loaded, path, resume=True, quiet=True)
    return f"{_steps(folder):,} updates, {time.monotonic() - started:.0f} s"


def delete_run(path: Path) -> None:
    """Delete a run; a folder that holds something else is left alone.

    Raises:
        RunError: a process trains in it.
    """
    folder = RunFolder(path)
    if not (path / "run.json").exists():
        return
    if folder.in_use():
        raise RunError(f"{path} is in use by another run. Wait for it, or choose another --out.")
    shutil.rmtree(path)


def _check_same(folder: RunFolder, loaded: gin_files.LoadedConfig) -> None:
    """A finished run stands for a gin file only if it was trained as that file says now."""
    experiment = Experiment()
    check_experiment(experiment)
    load_data(experiment)
    Tracking()
    now = gin_files.operative_text(loaded)
    if found := changed_results(parse_bindings(read_text(folder.config)), parse_bindings(now)):
        raise RunError(
            f"{folder.path} holds a finished run of another configuration: {'; '.join(found)}. "
            "Use --fresh to train it again, or choose another --out."
        )


def _steps(folder: RunFolder) -> int:
    """Updates of a finished run."""
    return folder.chosen_step(folder.replicas()[0], "last")


def policy_samples(path: Path, count: int) -> NDArray[Any]:
    """Actions (count, A) of a finished run's last policy, of its first replica, in the state of zeros.

    The noise is a function of its seed, so the same run gives the same samples.

    Raises:
        RunError: the run has not finished.
    """
    folder = RunFolder(path)
    replica = folder.replicas()[0]
    gin_files.load_stored(folder.config)
    experiment = Experiment()
    pack = build_pack(experiment, [replica])
    weights, _ = checkpoint.read_checkpoint(folder.snapshot(replica.name, folder.chosen_step(replica, "last")))
    pack.load(0, weights)
    generator = generator_for(replica.seed, "figure", 0, pack.device)
    noise = draw_noise(pack.algorithm.sample_action_noise(pack.dims, count), generator, pack.dtype, count=1)
    state = torch.zeros(1, count, pack.dims.state, dtype=pack.dtype, device=pack.device)
    return np.asarray(pack.sample_action(state, noise)[0].double().cpu())


@dataclass(frozen=True)
class Panel:
    """One policy of the figure: its label, and the gin file that trains it."""

    label: str
    gin: str

    def folder(self, out: Path) -> Path:
        """Its run's folder."""
        return out / Path(self.gin).stem


@dataclass(frozen=True)
class FigureRow:
    """One row of the figure: the data, then policies.

    Attributes:
        title: what its policies are trained by.
        truth: label of the data's panel.
        rewards: whether that panel shows rewards as colour.
        panels: the policies.
    """

    title: str
    truth: str
    rewards: bool
    panels: tuple[Panel, ...]


ROWS = (
    FigureRow(
        "Behaviour cloning",
        "Ground truth",
        False,
        (
            Panel("Gaussian", "gin/bandit/bc_gaussian.gin"),
            Panel("CVAE", "gin/bandit/bc_cvae.gin"),
            Panel("MMD", "gin/bandit/bc_mmd.gin"),
            Panel("Diffusion", "gin/bandit/bc_diffusion.gin"),
        ),
    ),
    FigureRow(
        "Policy improvement by Q-learning",
        "Ground truth, rewards",
        True,
        (
            Panel("Gaussian-QL", "gin/bandit/ql_gaussian.gin"),
            Panel("CVAE-QL", "gin/bandit/ql_cvae.gin"),
            Panel("MMD-QL", "gin/bandit/ql_mmd.gin"),
            Panel("Diffusion-QL", "gin/bandit/ql_diffusion.gin"),
        ),
    ),
)
"""The paper's figure. Another policy is another line here."""


def draw_bandit(
    out: Path,
    bindings: Sequence[str] = (),
    samples: int = 1000,
    fresh: bool = False,
    rows: Sequence[FigureRow] = ROWS,
    console: Console | None = None,
) -> Path:
    """Train what is missing, draw the figure and write its numbers; returns the PNG.

    Args:
        out: folder of the runs, of `bandit.png`, `numbers.json` and `numbers.md`.
        bindings: `Configurable.parameter=value` strings for every run.
        samples: actions drawn from each policy.
        fresh: train all of them again.
        rows: which policies.
        console: where progress and the table go.

    Raises:
        DqlabError: a run cannot be trained, or is there with another configuration.
    """
    if samples < 1:
        raise ConfigError(f"--samples must be at least 1, not {samples}.")
    console = console or Console()
    _train(rows, out, bindings, fresh, console)
    drawn = [CloudRow(row.title, _clouds(row, out, bindings, samples)) for row in rows]
    draw_clouds(drawn, out / "bandit.png")
    write_text(out / "numbers.json", json.dumps(_record(rows, drawn), indent=1))
    table = bandit_markdown(drawn)
    write_text(out / "numbers.md", table)
    console.print(table, highlight=False, soft_wrap=True)
    console.print(f"Figure:  {out / 'bandit.png'}", soft_wrap=True)
    console.print(f"Numbers: {out / 'numbers.json'}, {out / 'numbers.md'}", soft_wrap=True)
    return out / "bandit.png"


def _train(rows: Sequence[FigureRow], out: Path, bindings: Sequence[str], fresh: bool, console: Console) -> None:
    """Every panel's run, one after the other, with a line each."""
    panels = [(row.title, panel) for row in rows for panel in row.panels]
    read: set[str] = set()
    for _, panel in panels:  # a mistake in any of them shows before the first is trained
        gin_files.load_gin([panel.gin], bindings)
        experiment, _ = Experiment(), Tracking()
        check_experiment(experiment)
        load_data(experiment)
        read |= parameters_read()
    gin_files.check_parameters_read(bindings, read)
    for number, (title, panel) in enumerate(panels, 1):
        name = f"[{number}/{len(panels)}] {title}, {panel.label}"
        if fresh:
            delete_run(panel.folder(out))
        with console.status(f"{name}: training"):
            done = train_unless_finished(panel.gin, panel.folder(out), bindings)
        console.print(f"{name}: {done}", highlight=False, soft_wrap=True)


def _clouds(row: FigureRow, out: Path, bindings: Sequence[str], samples: int) -> list[Cloud]:
    """The row's panels: the data, then each policy."""
    actions, rewards = _truth(row, bindings, samples)
    truth = Cloud(row.truth, actions, Coverage.of(actions), rewards if row.rewards else None)
    drawn = ((panel, policy_samples(panel.folder(out), samples)) for panel in row.panels)
    own = (Cloud(panel.label, actions, Coverage.of(actions), note=_note(panel.folder(out))) for panel, actions in drawn)
    return [truth, *own]


def _note(folder: Path) -> str:
    """How far a run was trained, and its seed."""
    facts = RunFolder(folder).facts()
    return f"{facts['parameters']['Training.steps']:,} updates, seed {facts['seeds'][0]}"


def _truth(row: FigureRow, bindings: Sequence[str], samples: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """As many actions (n, 2) and rewards (n,) of the data that the row's policies were trained with."""
    gin_files.load_gin([row.panels[0].gin], bindings)
    data = load_dataset(BANDIT)
    return data.action[:samples].double().numpy(), data.reward[:samples].double().numpy()


def _record(rows: Sequence[FigureRow], drawn: Sequence[CloudRow]) -> list[dict[str, Any]]:
    """The numbers of every panel, with the gin file of those that were trained."""
    return [
        {
            "row": row.title,
            "panels": [
                {"label": cloud.title, "gin": gin, "trained": cloud.note, **cloud.coverage.as_dict()}
                for gin, cloud in zip([None, *(panel.gin for panel in row.panels)], clouds.clouds, strict=True)
            ],
        }
        for row, clouds in zip(rows, drawn, strict=True)
    ]


def bandit_markdown(rows: Sequence[CloudRow]) -> str:
    """The numbers as a Markdown table."""
    lines = [
        "| trained by | policy | on a mode | entropy (nats) | of log 4 | on the best mode | trained for |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        for cloud in row.clouds:
            c = cloud.coverage
            spread = (f"{c.entropy:.3f}", f"{c.entropy_share:.1%}") if c.on_modes else ("-", "-")
            cells = (f"{c.on_modes:.1%}", *spread, f"{c.on_best:.1%}", cloud.note)
            lines.append(f"| {row.title} | {cloud.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
