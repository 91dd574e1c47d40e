"""The same as ``hardnet-suite demo``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
