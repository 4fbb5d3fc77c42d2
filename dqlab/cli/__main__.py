"""`python -m dqlab.cli`."""

import sys

from dqlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
