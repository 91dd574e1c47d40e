"""The same as ``hardnet-suite configs``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["configs", *sys.argv[1:]]))
