"""The same as ``hardnet-suite export``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
