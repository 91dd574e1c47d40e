"""The same as ``hardnet-suite test``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
