"""The same as ``hardnet-suite check-data``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]]))
