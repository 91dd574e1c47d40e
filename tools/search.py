"""The same as ``hardnet-suite search``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
