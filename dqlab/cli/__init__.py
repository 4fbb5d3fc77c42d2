"""The command line: one thin command per door."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from dqlab import __version__
from dqlab.cli import checks, data, grids, parts, records, training
from dqlab.cli.parser import Parser
from dqlab.errors import DqlabError, message_of
from dqlab.training.threads import quiet_threads

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
    quiet_threads()
    try:
        args = _parser().parse_args(argv)
        return int(args.command(args) or 0)
    except DqlabError as error:
        _show_traceback()
        print(f"dqlab: error: {message_of(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has gone
        return 1
    except OSError as error:
        print(
            f"dqlab: error: {error.filename or 'a file'}: {error.strerror or error}. Nothing is lost.", file=sys.stderr
        )
        return 2
    except (MemoryError, RuntimeError) as error:  # torch's allocators raise RuntimeErrors
        if "memory" not in str(error):
            raise
        _show_traceback()
        first = message_of(error).splitlines()[0]
        print(
            f"dqlab: error: not enough memory ({first}). Lower Training.batch_size, or train fewer seeds.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("dqlab: interrupted; the same command continues (dqlab train: with --resume)", file=sys.stderr)
        return 130


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
