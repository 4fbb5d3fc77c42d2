"""The videos of one evaluation command: noted while it evaluates, made and sent at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dqlab.console import Console
from dqlab.errors import RunError
from dqlab.evaluation import Evaluator
from dqlab.filming.recording import Take
from dqlab.filming.request import Film
from dqlab.filming.studio import Studio
from dqlab.machine import duration
from dqlab.run_folder import RunFolder
from dqlab.sending import send_rest
from dqlab.tracking.videos import is_tracked, keep

EVERY = 20.0
"""Seconds between two lines on a film's progress."""
SHOWN = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("steps"),
    TimeRemainingColumn(),
)


class Lines:
    """Tells now and then how far a film is, where no bar can be shown.

    Args:
        say: prints a line.
        total: steps in all.
    """

    def __init__(self, say: Callable[[str], Any], total: int) -> None:
        self._say, self._total, self._done = say, total, 0
        self._told = time.monotonic()

    def __call__(self) -> None:
        """One more step."""
        self._done += 1
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self._say(f"  filming: {self._done:,} of {self._total:,} steps")


@dataclass(frozen=True)
class Scene:
    """A replica's video to be.

    Attributes:
        name, step: the replica's, and the updates that its policy has seen.
        film: the file that is wanted.
        takes: the episodes.
    """

    name: str
    step: int
    film: Film
    takes: list[Take]


class Filming:
    """Notes the episodes of each replica's evaluation, and makes the videos when all have been evaluated.

    Args:
        evaluator: that evaluates.
        film: what is wanted.
        replicas: how many will be evaluated; each of several gets a file of its own.

    Raises:
        ConfigError: as `Studio`.
    """

    def __init__(self, evaluator: Evaluator, film: Film, replicas: int) -> None:
        self._console = Console()
        self._studio, self._film, self._alone = Studio(evaluator, film), film, replicas == 1
        self._task = evaluator.task
        self._scenes: list[Scene] = []
        frames, each = film.episodes * (self._task.episode_limit + 1), self._studio.seconds
        files = f"{replicas} videos" if replicas > 1 else str(film.path)
        self._console.print(
            f"Filming: after the evaluation, {files} of up to {frames:,} frames: "
            f"up to {duration(replicas * frames * each)} ({each:.2f} s a frame here)",
            soft_wrap=True,
        )

    def note(self, name: str, step: int) -> None:
        """A replica has been evaluated."""
        self._scenes.append(Scene(name, step, self._film.of(name, self._alone), self._studio.takes()))

    def finish(self, folder: RunFolder | None) -> None:
        """Make the videos and say what they show; send them where the run is recorded.

        Args:
            folder: the run's; None for what is no run of dqlab's.

        Raises:
            RunError: a video could not be written.
        """
        console, waiting = self._console, Console(stderr=True)
        for scene in self._scenes:
            with Progress(*SHOWN, console=waiting, transient=True, disable=not waiting.is_terminal) as progress:
                steps = sum(len(take.actions) for take in scene.takes)
                task = progress.add_task(f"filming {escape(str(scene.film.path))}", total=steps)
                shown = partial(progress.advance, task) if waiting.is_terminal else Lines(console.print, steps)
                about = self._studio.shoot(scene.takes, scene.film, shown)
            console.print(f"Video: {scene.film.path} ({about})", soft_wrap=True)
            for number, take in enumerate(scene.takes, 1):
                score = f", score {float(self._task.score(take.total)):.1f}" if self._task.scored else ""
                lines = f"{len(take.actions)} steps, return {take.total:.1f}{score}"
                console.print(f"  episode {number}: {lines}", soft_wrap=True)
        if folder is not None and is_tracked(folder.path):
            self._send(folder)

    def _send(self, folder: RunFolder) -> None:
        """Videos into the run's folder, and to MLflow; a dead server costs a warning."""
        known = {replica.name for replica in folder.replicas()}
        for scene in self._scenes:
            if scene.name in known:
                keep(scene.film.path, folder.replica(scene.name), scene.step)
        try:
            send_rest(folder.path)
        except RunError as error:
            print(f"dqlab: warning: {error} The video waits. Later: dqlab sync {folder.path}", file=sys.stderr)
