"""``python -m hardnet_suite``: the command ``hardnet-suite``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main())
