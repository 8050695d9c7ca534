"""Write a data set as shards: `python -m jaxdino.prepare --root DIR --out SHARDS`.

The shards hold the image files as they are, with labels and splits, in ArrayRecord files. `--config.data.name=shards
--config.data.root=SHARDS` then gives the same batches as the folder, bit for bit. A call that was interrupted goes on
where it stopped when it is repeated.
"""

import argparse
import sys
from pathlib import Path

from jaxdino.core.arguments import Parser
from jaxdino.core.command import OF_DATA, described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.words import printable

READ = (
    *("val_ratio", "test_ratio", "split_seed", "train_split", "val_split", "test_split"),
    *("classes", "images", "columns", "image_column", "dataset", "max_missing", "follow_links"),
)
"""Settings of the data that say which images there are, and their splits and classes."""


def main(argv: list[str] | None = None) -> int:
    """Write or check shards; return the exit status, see `finish`."""
    return finish(lambda: _run(argv), words=OF_DATA)


def _run(argv: list[str] | None) -> None:
    parser = Parser(
        prog=program("prepare"),
        description=described("prepare", __doc__),
        epilog="Settings of the data are given as in a config: --data.val_ratio=0.1 --data.split_seed=3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", help="the data, as config.data.root of a run")
    parser.add_argument("--out", required=True, metavar="SHARDS", help="folder of the shards")
    parser.add_argument("--name", default="folder", help="the source, as config.data.name of a run (default folder)")
    parser.add_argument(
        "--field",
        default="label",
        choices=("label", "labels", "boxes"),
        help="one class for an image, several, or boxes",
    )
    parser.add_argument("--records", type=int, default=20_000, help="images in a shard (default 20000)")
    parser.add_argument("--verify", action="store_true", help="check every record of finished shards, write nothing")
    args, rest = parser.parse_known_args(expanded(argv))
    from jaxdino.data import shard_writing
    from jaxdino.data.sources import load_source
    from jaxdino.settings.data_flags import data_settings
    from jaxdino.train.data import summary

    if args.verify:
        print("\n".join(shard_writing.verify(Path(args.out))))
        return
    if not args.root:
        raise UserError("--root is missing: the folder, file or list of the images")
    if args.records < 1:
        raise UserError(f"--records {args.records} must be at least 1")
    cfg, _ = data_settings(rest, args.name, args.root, {f"data.{name}" for name in READ})
    source = load_source(cfg, args.field)
    say(summary(source))
    shard_writing.write(source, args.field, Path(args.out), args.records, cfg.max_missing, say)
    print(f"read them with --config.data.name=shards --config.data.root={args.out}")


def say(line: str) -> None:
    """Print a note."""
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
