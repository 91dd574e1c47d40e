"""The same as ``hardnet-suite samples``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["samples", *sys.argv[1:]]))
