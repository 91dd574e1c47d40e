"""The same as ``hardnet-suite draw-shapes``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["draw-shapes", *sys.argv[1:]]))
