"""`dqlab doctor`: say what works on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from dqlab.cli.options import add_parser

EXAMPLES = """
dqlab doctor
"""


def add_doctor(commands: Any) -> None:
    """`dqlab doctor`."""
    text = "Say what works on this machine, and the fix for what does not; exit code 1 if dqlab train could not work."
    parser = add_parser(commands, "doctor", text, EXAMPLES)
    parser.set_defaults(command=_doctor)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _doctor(args: argparse.Namespace) -> int:
    from dqlab.tools.doctor.report import can_train, examine_machine, findings_as_json, print_findings

    findings = examine_machine()
    if args.json:
        print(findings_as_json(findings))
    else:
        print_findings(findings)
    return 0 if can_train(findings) else 1
