"""The commands' parser: what their help says, what is near a misspelt command, which words are numbers."""

from __future__ import annotations

import argparse
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


ALL = list(commands(build_parser()))


@pytest.mark.parametrize("parser", ALL, ids=[parser.prog for parser in ALL])
def test_every_command_has_examples_that_it_can_read(parser: Parser) -> None:
    _, _, examples = parser.format_help().partition("examples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    assert lines
    for line in lines:
        assert line.startswith(parser.prog)
        build_parser().parse_args(shlex.split(line)[1:])


def test_the_help_lists_every_command_in_its_group() -> None:
    parser = build_parser()
    text = parser.format_help()
    for title in GROUPS:
        assert f"\n{title}:\n" in text
    for name, command in parser.commands.items():
        assert f"  {name:<12}{command.description}" in text
        for below in command.commands:
            assert f"\n    {below} " in command.format_help()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "dqlab has no command 'trian'. Did you mean `dqlab train`?"),
        ("evaluate", "Did you mean `dqlab eval`?"),
        ("data dowload", "dqlab data has no command 'dowload'. Did you mean `dqlab data download`?"),
        ("convert mine.npz", "Did you mean `dqlab data convert`?"),
    ],
)
def test_a_near_miss_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_parser().parse_args(typed.split())
    assert meant in str(raised.value)


@pytest.mark.parametrize("typed", ["train --steps x", "export runs/mine", "eval --episodes", "train --plugin a b"])
def test_a_wrong_argument_is_one_line(typed: str) -> None:
    with pytest.raises(
        ConfigError, match="^(argument|the following|unrecognized)[^\\n]*`dqlab [a-z]+ --help` shows what it takes.$"
    ):
        build_parser().parse_args(typed.split())


def test_negative_numbers_are_no_options() -> None:
    """By an attribute of argparse's own: without it, this fails."""
    words = ["hopper-medium-v2", "-20.5", "-1e3", "-.5", "-inf"]
    assert build_parser().parse_args(["score", *words]).returns == words[1:]
    assert hasattr(argparse.ArgumentParser(), "_negative_number_matcher")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dqlab tra", {"train"}),
        ("dqlab train --gin gin/quick", {"gin/quickstart.gin"}),
        ("dqlab ablate --grid mi", {"mine.gin"}),
        ("dqlab describe noise_sch", {"noise_schedule"}),
        ("dqlab describe noise_schedule k", {"karras"}),
        ("dqlab eval ru", {"runs/"}),
    ],
)
def test_what_a_shell_offers(typed: str, offered: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    (tmp_path / "mine.gin").touch()
    (tmp_path / "runs").mkdir()
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "_ARGCOMPLETE_IFS": "\n"}
    env = isolated(tmp_path) | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "said")}
    subprocess.run([sys.executable, "-m", "dqlab"], cwd=tmp_path, env=env, check=True)
    assert {word.strip() for word in (tmp_path / "said").read_text().splitlines()} == offered
