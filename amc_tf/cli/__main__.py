"""Lets `python -m amc_tf.cli` do what `amc-tf` does."""

import sys

from amc_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
