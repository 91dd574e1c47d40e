"""The same as ``hardnet-suite make-patches``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["make-patches", *sys.argv[1:]]))
