"""The same as ``hardnet-suite benchmark``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
