"""Overrides and gin texts that nobody would write on purpose, the same for the same seed."""

from __future__ import annotations

import contextlib
import inspect
import random
from pathlib import Path

from conftest import ROOT, SMALL, TINY

from dqlab.ablation.grid import Grid
from dqlab.algorithms import algorithms
from dqlab.cli import in_a_line
from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings
from dqlab.config.gin_state import bound_parameters, configurables, parameters_read, shortest_name
from dqlab.config.identity import changed_results
from dqlab.errors import DqlabError
from dqlab.runs import Experiment
from dqlab.runs.experiment import Tracking, check_experiment
from dqlab.tools.collect.recipe import Collection

BASE = ["Experiment.task='walker2d-medium-v2'", *TINY, *SMALL]
READ = ("Experiment", "Training", "Tracking", "Grid", "Collection", "DiffusionQL", "DiffusionPolicy", "MLPDenoiser")
"""What is built from every text; half of the overrides are of these."""
PLAIN = """
0 -1 1e400 nan 10**9 0x10 1_000 True None '' ' [] () {} (1, [[[[]]]] ... * lambda:1 b'x' 1j 1;2 ('file:/dev/null',)
@ @vp @vp() @a/b/vp() @nobody @Experiment() (@Training,[@vp()]) % %x %a/x 'vp' ('embedded',) ('file:',)
{'a':1} {1:{2:[3]}} {'x':{'seed':-1}} {'x':None}
"""
ODD = ("", "1 2", "1 # x", "\u201cvp\u201d", "\u22121", "\u00a01", "\ufeff", "\x00", "\x1b[31m", "\ud800", "'\u2028'")
LONG = ("[" * 300, "(" * 90 + ")" * 90, "-" * 500 + "1", "9" * 5000, "'" + "x" * 100_000 + "'", "'''", '"""')
VALUES = (*PLAIN.split(), *ODD, *LONG)
CHARACTERS = "abzAZ019_./@%=()[]{}'\"\\#,:;- \t\n\r\0\x0c\u00a0\u201c\u2028\ufeff\u0430\ud800\U0001f600"


def made_text(dice: random.Random, known: list[str], files: list[str]) -> tuple[str, bool]:
    """A text, and whether it is a gin file's rather than one `--set`."""
    read = [name for name in known if name.split(".")[0] in READ]
    name, value = dice.choice(dice.choice((known, read))), dice.choice(VALUES)
    kind = dice.random()
    if kind < 0.1:
        return f"Experiment.algorithm='{dice.choice(algorithms.names())}'\n{name}={value}", False
    if kind < 0.5:
        return f"{name}{dice.choice(('=', '=', '=', ' = ', ' ', ':', '=='))}{value}", False
    text, is_file = f"{name}={value}", kind >= 0.75
    if is_file:
        text = dice.choice(files)
        start = dice.randrange(len(text))
        text = text[start : start + dice.randrange(1, 600)]
    for _ in range(dice.randrange(1, 5)):
        place = dice.randrange(len(text) + 1)
        end = min(len(text), place + dice.choice((0, 1, 1, 5, 40)))
        piece = dice.choice((dice.choice(CHARACTERS), dice.choice(VALUES), text[place:end] * 2, ""))
        text = text[:place] + piece + text[end:]
    return text, is_file


def load(text: str, is_file: bool, folder: Path) -> None:
    """As commands do before they read any data: load, look at what is bound, build what is configured."""
    if is_file:
        path = folder / "fuzz.gin"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        gin_files.bindings_in_file(path)
        loaded = gin_files.load_gin([path], BASE)
    else:
        loaded = gin_files.load_gin([], [*BASE, text])
    bound_parameters()
    for build in (Experiment, Tracking, Grid, Collection):
        with contextlib.suppress(DqlabError):
            build()
    check_experiment(Experiment())
    written = gin_files.operative_text(loaded)
    changed_results(parse_bindings(written), parse_bindings(written))
    gin_files.unread_warnings(loaded, parameters_read())
    if not is_file:
        gin_files.check_parameters_read([text], parameters_read())


def faults(count: int, seed: int, folder: Path) -> list[tuple[str, BaseException]]:
    """What of so many was more than a message: the text, and what it raised."""
    dice, found = random.Random(seed), list[tuple[str, BaseException]]()
    files = [path.read_text() for part in ("gin", "ablations") for path in sorted((ROOT / part).rglob("*.gin"))]
    gin_files.load_gin([])
    known = ["x", "a/x", "a/Training.steps", "Experiment", "Experiment.", ".seeds", "gin.macro.value"]
    for selector, item in sorted(configurables().items()):
        with contextlib.suppress(ValueError, TypeError):
            known += [f"{shortest_name(selector)}.{name}" for name in inspect.signature(item).parameters]
    for _ in range(count):
        text, is_file = made_text(dice, known, [text for text in files if text])
        try:
            load(text, is_file, folder)
        except BaseException as error:
            if not in_a_line(error):
                found.append((text, error))
    return found
