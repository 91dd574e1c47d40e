"""The same as ``hardnet-suite doctor``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
