"""The same as ``hardnet-suite serve``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
