"""The commands' parser: what their help says, what is near a misspelt command, which words are numbers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import isolated

from dqlab.cli import GROUPS, build_parser
from dqlab.cli.parser import Parser
from dqlab.errors import ConfigError


def commands(parser: Parser) -> Iterator[Parser]:
    for each in parser.commands.values():
        yield each
        yield from commands(each)


def test_every_command_is_listed_and_has_examples_that_it_can_read() -> None:
    parser = build_parser()
    text = parser.format_help()
    assert all(f"\n{title}:\n" in text for title in GROUPS)
    assert all(f"  {name:<12}{command.description}" in text for name, command in parser.commands.items())
    for command in commands(parser):
        shown, _, examples = command.format_help().partition("examples:\n")
        assert all(f"\n    {below} " in shown for below in command.commands)
        lines = examples.strip().splitlines()
        assert lines
        for line in lines:
            assert line.strip().startswith(command.prog)
            build_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("trian", "^dqlab has no command 'trian'. Did you mean `dqlab train`"),
        ("evaluate", "Did you mean `dqlab eval`"),
        ("data dowload", "^dqlab data has no command 'dowload'. Did you mean `dqlab data download`"),
        ("convert mine.npz", "Did you mean `dqlab data convert`"),
        ("train --steps x", "^argument [^\\n]*`dqlab train --help` shows what it takes.$"),
        ("export runs/mine", "^the following [^\\n]*`dqlab export --help` shows what it takes.$"),
        ("train --stepz=5", r"^unrecognized arguments: --stepz=5 \(did you mean --steps\?\)\. `dqlab train --help`"),
        ("train --plugin a b", "^unrecognized [^\\n]*`dqlab train --help` shows what it takes.$"),
    ],
)
def test_a_wrong_command_or_argument_is_one_line(typed: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_parser().parse_args(typed.split())
    assert re.search(said, str(raised.value))


def test_negative_numbers_are_no_options() -> None:
    """By an attribute of argparse's own: without it, this fails."""
    words = ["hopper-medium-v2", "-20.5", "-1e3", "-.5", "-inf"]
    assert build_parser().parse_args(["score", *words]).returns == words[1:]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dqlab tra", "train"),
        ("dqlab train --gin gin/quick", "gin/quickstart.gin"),
        ("dqlab ablate --grid mi", "mine.gin"),
        ("dqlab describe noise_schedule k", "karras"),
        ("dqlab eval ru", "runs/"),
    ],
)
def test_what_a_shell_offers(typed: str, offered: str, tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    (tmp_path / "mine.gin").touch()
    (tmp_path / "runs").mkdir()
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "_ARGCOMPLETE_IFS": "\n"}
    env = isolated(tmp_path) | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "said")}
    subprocess.run([sys.executable, "-m", "dqlab"], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "said").read_text().split() == [offered]
