"""What a person sees of a run: progress (live on a terminal, plain lines elsewhere), its scores, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dqlab.errors import SUCCESS
from dqlab.files import atomic_path
from dqlab.printing import Console
from dqlab.tracking.selection_rules import rule_name

Row = Mapping[str, Any]
SHOWN = {
    "behaviour/bc_loss": "L_behaviour",
    "actor/trust_loss": "L_trust",
    "actor/bc_loss": "L_bc",
    "actor/q_loss": "L_q",
    "critic/loss": "critic",
}


class Display(progress.Progress):
    """Progress of one run of so many updates; a console that is no terminal gets plain lines.

    The caveat ("not D4RL") stands beside every score; where a task is not `scored`, returns are shown alone.
    """

    def __init__(
        self, steps: int, caveat: str = "", quiet: bool = False, console: Console | None = None, scored: bool = True
    ) -> None:
        self._console = console = console or Console()
        self._scored, self._quiet, self._steps = scored, quiet, steps
        self._caveat = f" ({caveat})" if caveat else ""
        texts = ("[bold]training", "{task.fields[rate]} updates/s", "{task.fields[losses]}", "{task.fields[score]}")
        title, rate, *others = map(progress.TextColumn, texts)
        columns = (title, progress.BarColumn(), progress.MofNCompleteColumn(), rate, progress.TimeRemainingColumn())
        super().__init__(*columns, *others, console=console, disable=quiet or not console.is_terminal)
        self._bar = self.add_task("training", total=steps, rate="-", losses="", score="")

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """New means of the losses."""
        hidden = "actor/bc_loss" if "actor/trust_loss" in metrics else ""  # DTQL's actor need not clone
        labels = SHOWN | {name: name.removesuffix("/loss") for name in metrics if name.endswith("/loss")}
        shown = {name: label for name, label in labels.items() if name in metrics and name != hidden}
        losses = "  ".join(f"{label} {metrics[name]:.4g}" for name, label in shown.items())
        rate = f"{metrics.get('updates_per_second', 0.0):.1f}"
        self.update(self._bar, completed=step, losses=losses, rate=rate)
        if self.disable:
            self.say(f"step {step:>8,} of {self._steps:,}  {rate} updates/s  {losses}")

    def evaluated(self, step: int, evaluations: Mapping[str, Any]) -> None:
        """New scores, by the replicas' titles."""
        name = "score" if self._scored else "return"
        scores = " ".join(f"{result['score_mean']:.1f}" for result in evaluations.values())
        self.update(self._bar, score=f"{name} {scores}{self._caveat}")
        for title, result in evaluations.items():
            score = f"{name} {result['score_mean']:6.1f} +- {result['score_std']:.1f}{self._caveat}"
            returned = f"  return {result['return_mean']:.0f}" if self._scored else ""
            self.say(f"step {step:>8,}  {title}  {score}{returned}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._console.say(text)


def announce_fallback(console: Console, task: str, provenance: Any) -> None:
    """The panel that cannot be missed: this is not D4RL's data."""
    name = provenance.path.rsplit("/", 1)[-1]
    lines = [
        f"This is not D4RL's {task}, but the small set that ships with dqlab:",
        f"{name}, {provenance.rows:,} rows, {provenance.episodes} episodes, mean return {provenance.return_mean:.0f}.",
        "Scores from it must not be compared with published ones; each is marked 'not D4RL'.",
    ]
    console.print(Panel(Text("\n".join(lines)), title="NOT D4RL DATA", border_style="bold red"))
    for reason in provenance.skipped:  # below it, where no address is broken
        console.say(f"Not had: {reason}")


def about_data(provenance: Any) -> Text:
    """What is trained on, in a line."""
    place = f"{provenance.source} {provenance.path or ''}".rstrip()
    size = f"{provenance.rows:,} rows, {provenance.transitions:,} transitions, {provenance.episodes:,} episodes"
    size += f", mean return {provenance.return_mean:.1f}"
    actions = f", {provenance.actions}" if provenance.actions else ""
    return Text(f"data: {place}: {size}{actions}" + (f" ({provenance.caveat})" if provenance.caveat else ""))


@contextmanager
def download_progress(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A callback `(bytes done, bytes in all)` that shows a bar from its first call on."""
    text, bar, remaining = progress.TextColumn("[bold]download"), progress.BarColumn(), progress.TimeRemainingColumn()
    columns = (text, bar, progress.DownloadColumn(), progress.TransferSpeedColumn(), remaining)
    shown = progress.Progress(*columns, console=console, transient=True)
    with ExitStack() as begun:

        def show(done: int, total: int | None) -> None:
            if not shown.tasks:  # rich prints a line at the end of a bar that was never there
                begun.enter_context(shown)
                shown.add_task("download", total=total)
            shown.update(shown.task_ids[0], completed=done, total=total)

        yield show


def summary_table(
    summaries: Mapping[str, Row], data: Row, caveat: str, failures: Mapping[str, int] | None = None, scored: bool = True
) -> Table:
    """The table a run ends with: every selection rule's score, of every replica, and the data's mean return.

    Summaries and failures (their steps) are by replicas' titles, `data` is as in run.json; not `scored`: returns alone.
    """
    scale = "" if SUCCESS in caveat else "D4RL-normalised" if data.get("is_d4rl") else "normalised"
    note = ", ".join(filter(None, (scale, caveat)))
    table = Table(title=f"Scores ({note}) by selection rule" if scored else f"By selection rule ({caveat})")
    for column in ("replica", "rule", "step", *(("score", "std", "return") if scored else ("return", "std"))):
        table.add_column(column, justify="left" if column in ("replica", "rule") else "right")
    none = ["-"] * (3 if scored else 2)
    for title, summary in summaries.items():
        several = sum(evaluation["step"] > 0 for evaluation in summary["evaluations"]) > 1
        losses = {e["step"]: e["selection_loss"] for e in summary["evaluations"] if e["selection_loss"] is not None}
        for row in summary["selection"].values():
            rule, step = rule_name(row["rule"]), row["step"]
            if rule == "offline" and step in losses:
                rule += f" (loss no. {1 + sum(loss < losses[step] for loss in losses.values())} of {len(losses)})"
            elif rule == "mean-last-10" and len(losses) < 10:
                rule += f" (of {len(losses)})"
            numbers = _numbers(row, scored, spread=several or step is not None)
            table.add_row(title, rule, "-" if step is None else f"{step:,}", *numbers)
        if row := summary.get("untrained"):
            table.add_row(title, "untrained policy", "0", *_numbers(row, scored))
        for row in summary.get("failed_evaluations", ()):
            table.add_row(title, "evaluation failed", f"{row['step']:,}", *none)
        table.add_section()
    for title, failed_at in (failures or {}).items():
        table.add_row(title, "failed", f"{failed_at:,}", *none)
        table.add_section()
    score = "-" if data["score_mean"] is None else f"{data['score_mean']:.1f}"
    of_data = (score, "", *([f"{data['return_mean']:.0f}"] if scored else []))
    table.add_row("", "mean return of the data", "", *of_data)
    return table


def _numbers(row: Row, scored: bool, spread: bool = True) -> list[str]:
    """Score, its deviation if it is one of several, return; a return alone has its deviation as its score's."""
    own = [f"{row['return_mean']:.0f}"] if scored else []
    return [f"{row['score_mean']:.1f}", f"{row['score_std']:.1f}" if spread else "-", *own]


def draw_score_curve(
    evaluations: Sequence[Row], selection: Mapping[str, Row], title: str, path: Path, scored: bool = True
) -> None:
    """Score over updates with its spread over episodes, and the selection loss below; selected points are marked.

    Evaluations are as in summary.json, `selection` is what the rules chose; not `scored`: the score is the return.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    score, loss = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps, means, spreads = (np.array([e[name] for e in evaluations]) for name in ("step", "score_mean", "score_std"))
    score.plot(steps, means, marker="o", markersize=3)
    score.fill_between(steps, means - spreads, means + spreads, alpha=0.2, linewidth=0)
    for rule, marker in {"last": "s", "best_online": "*", "offline": "D"}.items():
        step, value = selection[rule]["step"], selection[rule]["score_mean"]
        label = f"{rule_name(rule)}: {value:.1f}"
        score.plot(step, value, marker, markersize=9, fillstyle="none", linestyle="", label=label)
    score.set_ylabel(f"{'score' if scored else 'return'} (mean and std over episodes)")
    score.set_title(title, fontsize=10)
    score.legend(loc="best", fontsize=8)
    losses = {e["step"]: e["selection_loss"] for e in evaluations if e["selection_loss"] is not None}
    loss.plot(list(losses), list(losses.values()), color="tab:orange", marker="o", markersize=3)
    loss.set(xlabel="updates", ylabel="loss for offline selection")
    for axes in (score, loss):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
