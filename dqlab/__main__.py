"""`python -m dqlab`."""

import sys

from dqlab.cli import main

sys.exit(main())
