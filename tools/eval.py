"""The same as ``hardnet-suite eval``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
