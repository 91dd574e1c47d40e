"""The same as ``hardnet-suite models``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["models", *sys.argv[1:]]))
