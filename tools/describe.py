"""The same as ``hardnet-suite describe``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["describe", *sys.argv[1:]]))
