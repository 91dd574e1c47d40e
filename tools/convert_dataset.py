"""The same as ``hardnet-suite convert-dataset``."""

import sys

from hardnet_suite.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert-dataset", *sys.argv[1:]]))
