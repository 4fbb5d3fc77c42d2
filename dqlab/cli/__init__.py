"""The command line: one thin command per door."""

from __future__ import annotations

import argparse
import io
import locale
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from dqlab import __version__
from dqlab.cli import checks, data, grids, parts, records, training
from dqlab.cli.parser import Parser
from dqlab.errors import DqlabError, first_line, lacks_memory, masked, message_of, printable
from dqlab.training.execution.threads import quiet_threads

EPILOG = """examples:
  dqlab train --gin gin/quickstart.gin
  dqlab train --gin gin/diffql_walker2d.gin --seeds 0 1 2 --set DiffusionQL.eta=0.5
  dqlab train --gin gin/diffql_walker2d.gin --out runs/mine --resume
  dqlab train --gin ablations/steps.gin --cell N=10
  dqlab ablate --grid ablations/steps.gin --dry-run
  dqlab eval runs/mine --checkpoint best --episodes 100
  dqlab eval --official results/DIR --task walker2d-medium-expert-v2
  dqlab data info walker2d-medium-v2
  dqlab data convert mine.npz mine.hdf5
  dqlab list noise_schedule
  dqlab describe noise_schedule vp
  dqlab new-task mine.npz --env-id my_envs:Mine-v0
  dqlab new-plugin mylab
  dqlab check mylab
  dqlab figure bandit
  dqlab bench compare
  dqlab compare runs/steps
  dqlab ui runs
  dqlab score hopper-medium-v2 -20.27 3234.3
  dqlab doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2: a mistake that the user can mend, told in one message)."""
    if argv is None:
        _use_utf8()
    quiet_threads()
    try:
        args = _parser().parse_args(argv)
        return int(args.command(args) or 0)
    except DqlabError as error:
        _show_traceback()
        print(f"dqlab: error: {printable(masked(message_of(error)))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has gone
        return 1
    except (MemoryError, RuntimeError, OSError) as error:  # torch's allocators raise RuntimeErrors
        if not (lacks_memory(error) or isinstance(error, OSError)):
            raise
        _show_traceback()
        print(f"dqlab: error: {_about_memory(error) if lacks_memory(error) else _about_file(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dqlab: interrupted; the same command continues (dqlab train: with --resume)", file=sys.stderr)
        return 130


def _about_memory(error: BaseException) -> str:
    advice = (
        "Use a smaller batch (Training.batch_size), fewer seeds together or a smaller dataset, or free some memory."
    )
    return f"not enough memory ({first_line(error)}). {advice}"


def _about_file(error: Any) -> str:
    return f"{error.filename or 'a file'}: {error.strerror or first_line(error)}."


def _use_utf8() -> None:
    """Files are UTF-8 in every locale, here and in what is started from here; what a terminal lacks is escaped.

    Python settles that when it starts: where the locale says something else, it starts anew.
    """
    if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8") and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_traceback() -> None:
    """For whoever looks for a mistake in her own part."""
    if os.environ.get("DQLAB_DEBUG"):
        traceback.print_exc()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dqlab",
        description="Reproduce, ablate and extend Diffusion-QL (Wang, Hunt, Zhou 2022).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dqlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (training, grids, data, parts, records, checks):
        group.add(commands)
    return parser
