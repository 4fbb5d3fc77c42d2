"""What mkdocs needs beside the pages: two that are written from the code, and lists as GitHub reads them."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

from dqlab.ablation import Grid
from dqlab.analysis.results import Report
from dqlab.cli import GROUPS
from dqlab.cli.parser import Parser
from dqlab.data import load_dataset
from dqlab.runs import Experiment
from dqlab.runs.experiment import Tracking
from dqlab.training import Training

LIST = re.compile(r"^(?![-|#>\s]|\* |\d+\. )(.+)\n(?=- |\d+\. )", re.MULTILINE)
"""A line of text right above a list."""
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?:examples|benchmarks|deploy)/[^)]*\)")
os.environ["COLUMNS"] = "100"  # what argparse wraps its help to
SETTINGS = (Experiment, Training, load_dataset, Tracking, Grid, Report)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of commands and of settings."""
    for path, text in (("reference/commands.md", commands_page()), ("reference/settings.md", settings_page())):
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A list may follow its sentence at once, as on GitHub; what lies beside docs/ is named, not linked."""
    markdown = OUTSIDE.sub(r"`\1`", markdown)
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    for index in range(0, len(parts), 2):
        parts[index] = LIST.sub(r"\1\n\n", parts[index])
    return "".join(parts)


def commands_page() -> str:
    """Every command's help, by the groups of `dqlab --help`."""
    lines = ["# Commands", "", "What `dqlab COMMAND --help` says. Exit codes: 0 done, 1 some of it failed, 2 a mistake"]
    lines += ["that one line names, 128 + n ended by signal n (130: Ctrl-C).", ""]
    for title, group in GROUPS.items():
        lines += [f"## {title.capitalize()}", ""]
        parser = Parser(prog="dqlab")
        parser.add_commands(group)
        for command in parser.commands.values():
            lines += [line for each in walk(command) for line in entry_of(each)]
    return "\n".join(lines)


def walk(parser: Any) -> Iterator[Any]:
    """A command, then those below it."""
    yield parser
    for below in parser.commands.values():
        yield from walk(below)


def entry_of(parser: Any) -> list[str]:
    """One command of the page."""
    return [f"### {parser.prog}", "", "```text", parser.format_help().rstrip(), "```", ""]


def settings_page() -> str:
    """The parameters of what is no component, with their defaults."""
    lines = ["# Settings of gin files", "", "What a run, a grid and a report are told, with defaults; components have"]
    lines += ["their own ([all of them](../components.md), and `dqlab describe KIND NAME`)."]
    lines += ["In a gin file, or as `--set NAME=VALUE`.", ""]
    for item in SETTINGS:
        lines += [f"## {item.__name__}", "", "```python", *defaults_of(item), "```", ""]
        lines += [*explained(inspect.getdoc(item) or ""), ""]
    return "\n".join(lines)


def explained(docstring: str) -> Iterator[str]:
    """A docstring's first paragraph, and its parameters as a list."""
    summary, _, rest = docstring.partition("\n\n")
    yield summary
    yield ""
    listed = re.split(r"^(?:Args|Attributes):\n", rest, flags=re.MULTILINE)[-1].partition("\n\n")[0]
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
        yield f"- **{names}**: {' '.join(text.split())}"


def defaults_of(item: Any) -> Iterator[str]:
    """`Training.steps = 2000000`, line by line."""
    for parameter in inspect.signature(item).parameters.values():
        default = parameter.default
        if repr(default) == "<factory>":
            default = {}
        if default is not parameter.empty and not callable(default):
            yield f"{item.__name__}.{parameter.name} = {default!r}"
