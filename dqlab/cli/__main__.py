"""`python -m dqlab.cli`."""

from __future__ import annotations

import sys

from dqlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
