"""The command ``python -m cnnjax.export``, see `cnnjax.runs.export`."""

import sys

from cnnjax.runs.export import main

if __name__ == "__main__":
    sys.exit(main())
