"""Run `python -m jaxdino COMMAND ...`, the same as `jaxdino COMMAND ...`."""

import sys

from jaxdino.cli import main

if __name__ == "__main__":
    sys.exit(main())
