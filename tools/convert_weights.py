"""The same as ``hardnet-suite convert-weights``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert-weights", *sys.argv[1:]]))
