"""The same as ``hardnet-suite identify``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["identify", *sys.argv[1:]]))
