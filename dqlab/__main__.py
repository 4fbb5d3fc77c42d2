"""`python -m dqlab`."""

from __future__ import annotations

import sys

from dqlab.cli import main

sys.exit(main())
