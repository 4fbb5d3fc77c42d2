"""The command line."""  # PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import gc
import io
import locale
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from dqlab import __version__
from dqlab.cli.data import DATA, check_plugin, collect, describe, doctor, list_components, new_plugin, new_task, score
from dqlab.cli.experiments import FIGURE, ablate, compare, evaluate, export, train
from dqlab.cli.parser import Command, Parser
from dqlab.cli.runs import RUNS, sync, ui
from dqlab.errors import DqlabError, first_line, lacks_memory, masked, message_of, mistake_in_gin, printable
from dqlab.machine import quiet_threads

GROUPS: dict[str, tuple[Command, ...]] = {
    "experiments": (train, evaluate, ablate, compare, FIGURE, export),
    "data": (DATA, collect, new_task, score),
    "records": (RUNS, sync, ui),
    "extending": (list_components, describe, check_plugin, new_plugin),
    "checking": (doctor,),
}
"""The commands, under the titles of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2: a mistake that the user can mend, told in one message)."""
    if argv is None:
        _use_utf8()
        signal.signal(signal.SIGTERM, _terminate)  # nothing half-written stays; train and ablate save
    quiet_threads()
    gc.set_threshold(10_000)  # 8% of a start: with Python's 700 it looks for garbage all along PyTorch's import
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed next (docs/howto/train.md)
        with suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(build_parser())
    try:
        args = build_parser().parse_args(argv)
        if "plugin" in args:
            from dqlab.config.plugins import load_plugins

            load_plugins(args.plugin)
        return int(args.command(args) or 0)
    except BrokenPipeError:  # the reader of a pipe has gone
        return 1
    except (DqlabError, MemoryError, RuntimeError, OSError, TypeError) as error:  # torch's allocators: RuntimeErrors
        if not (said := in_a_line(error)):
            raise
        if os.environ.get("DQLAB_DEBUG"):  # for whoever looks for a mistake in a component of her own
            traceback.print_exc()
        print(f"dqlab: error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if error.args == (signal.SIGTERM,):
            return 143
        print("dqlab: interrupted; the same command continues (dqlab train: with --resume and --out)", file=sys.stderr)
        return 130


def build_parser() -> Parser:
    """All commands; the help lists them by group, which argparse does not."""
    parser = Parser(prog="dqlab", description="Reproduce, ablate and extend Diffusion-QL (Wang, Hunt, Zhou 2022).")
    parser.add_argument("--version", action="version", version=f"dqlab {__version__}")
    parser.add_commands([command for group in GROUPS.values() for command in group], listed=False)
    listed = []
    for title, group in GROUPS.items():
        listed += [f"{title}:", *(f"  {command.name:<12}{command.text}" for command in group)]
    parser.epilog = "\n".join([*listed, "", "`dqlab COMMAND --help` shows a command's options, and examples."])
    return parser


def _terminate(*_: object) -> None:
    """SIGTERM has come; what guards against anything that somebody's code raises lets it through, as it does Ctrl-C."""
    raise KeyboardInterrupt(signal.SIGTERM)


def in_a_line(error: BaseException) -> str:
    """What is said of what a user can mend; nothing of a mistake in the program."""
    if isinstance(error, DqlabError):
        return printable(masked(message_of(error)))
    if said := mistake_in_gin(error):
        return said
    if lacks_memory(error):
        advice = "Use a smaller batch (Training.batch_size), fewer seeds together or a smaller dataset, or free some"
        return f"not enough memory ({first_line(error)}). {advice} memory."
    return f"{error.filename or 'a file'}: {error.strerror or first_line(error)}." if isinstance(error, OSError) else ""


def _use_utf8() -> None:
    """Files are UTF-8, here and in what is started from here: in another locale Python must start anew for that."""
    if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8") and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show
