"""The same as ``hardnet-suite index``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
