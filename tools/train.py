"""The same as ``hardnet-suite train``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
