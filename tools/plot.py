"""The same as ``hardnet-suite plot``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
