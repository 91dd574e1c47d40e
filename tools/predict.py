"""The same as ``hardnet-suite predict``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
