"""The same as ``hardnet-suite match``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["match", *sys.argv[1:]]))
