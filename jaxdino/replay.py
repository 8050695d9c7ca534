"""Take a step again that was not finite: `python -m jaxdino.replay runs/mine/nan_step37`.

A run with --config.debug.nan=True stops at such a step and saves it in this folder. The replay prints the first value
that is not finite, with its layer and images. It needs the data set and the weights that the run began with where they
were (--root for data that was moved), and one device.
"""

import argparse
import sys
from pathlib import Path

from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.words import printable


def main(argv: list[str] | None = None) -> int:
    """Replay a folder; return the exit status, see `finish`; 1 if every value is finite this time."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(
        prog=program("replay"),
        description=described("replay", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder nan_stepN of a run")
    parser.add_argument("--root", help="the data, if it is elsewhere than config.data.root of the run")
    args = parser.parse_args(expanded(argv))
    from jaxdino.train.not_finite.replay import replay

    found, lines = replay(Path(args.folder), args.root, say)
    print("\n".join(lines))
    return 0 if found else 1


def say(line: str) -> None:
    """Print a note."""
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
