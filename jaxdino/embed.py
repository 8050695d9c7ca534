"""Write one embedding for each image of a folder: `python -m jaxdino.embed --weights SRC --root DIR --out X.parquet`.

All images below the folder are read, in any layout; labels are not needed. The file has the columns `path` and
`embedding`; a file that ends in .npy has the embeddings alone, with the paths in a .json beside it. `jaxdino search`
finds similar images, near-duplicates and clusters in it. With --shard I/N, N processes share the images, and the last
one to finish writes the file.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convert import flags
from jaxdino import parts
from jaxdino.core.arguments import Parser
from jaxdino.core.command import OF_DATA, described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import counted, printable
from jaxdino.evaluate import OF_HEAD
from jaxdino.made_by import kept

BLOCK = 1024  # images of a block of --shard, rounded up to whole batches
READ = ("num_threads", "num_workers", "max_pixels", "sixteen_bit", "on_bad", "follow_links")
"""Settings of the data that are read here."""


def main(argv: list[str] | None = None) -> int:
    """Write embeddings; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv), words=OF_DATA)


def _run(argv: list[str] | None) -> int:
    parser = Parser(
        prog=program("embed"),
        description=described("embed", __doc__),
        epilog="Settings of the data are given as in a config: --data.num_threads=4 --data.sixteen_bit=0,4095",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules(without=OF_HEAD), flags.tiles()],
    )
    add = parser.add_argument
    add("--weights", required=True, help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    add("--root", required=True, help="the folder of the images, or several separated by commas")
    add("--out", required=True, metavar="FILE", help="a .parquet or .npy file")
    add("--pool", help="features: cls, mean, cls_mean, cls4_mean, grid, or joint (CLIP); default cls, of CLIP joint")
    add("--dtype", default="float32", help="of the computation: float32 (default), bfloat16 or float16")
    add("--batch_size", type=int, default=64, help="images per batch (default 64)")
    add("--shard", metavar="I/N", help="work on part I of N of the images, each part in a process of its own")
    add("--overwrite", action="store_true", help="let --out replace a file")
    args, rest = parser.parse_known_args(expanded(argv))
    prepare()
    keep_programs()
    return embed(args, rest)


def embed(args: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Write embeddings as the flags say; return 1 if an image could not be read, else 0.

    Raises:
      UserError: for wrong arguments, before an image is read; if no image can be read.
    """
    from convert.hub import check_there
    from jaxdino.api import tiled
    from jaxdino.core.options import check_range
    from jaxdino.data.sources import load_source
    from jaxdino.evaluate import opened
    from jaxdino.retrieval import embed as compute
    from jaxdino.retrieval import embeddings
    from jaxdino.settings.data_flags import data_settings
    from jaxdino.train import pixels

    check_range("--batch_size", args.batch_size, "[1, inf)")
    tiles = tiled.given(args)
    shard = None if args.shard is None else parts.shard_of(args.shard)
    out = embeddings.check_out(args.out, args.overwrite)
    cfg, _ = data_settings(rest, "images", args.root, {f"data.{name}" for name in READ})
    cfg = dataclasses.replace(cfg, scenes=True)
    check_there(args.weights)
    source = load_source(cfg)
    model = tiled.tiled(opened(args), tiles)
    pool = args.pool or compute.default_pool(model)
    wide = compute.width(model, pool)
    how = pixels.settled(cfg, source, model.card, say).spec.preprocess
    split = source.split("train")
    about = _about(args, model, pool, str(Path(split.root or ".").absolute()), how)
    work = _Work(split, pixels.of_model(cfg, how), model, compute.embedder(model, pool), wide, args.batch_size)
    if shard is None:
        said, rows, unread = "", *_alone(work, out, about)
    else:
        embeddings.check_out(args.out, args.overwrite)  # again: other parts may have been joined meanwhile
        names = parts.digest_of(map(split.record_name, range(len(split))))
        made = {"weights": model.digest, "dtype": args.dtype, "pool": pool, "preprocess": repr(how)}
        made |= {"tiles": repr(tiles), "batch_size": args.batch_size, "images": len(split), "paths": names}
        parts.begin(args.out, made, args.overwrite)
        said, rows, unread = _shared(work, out, about, args.out, shard)
    passed = f"; passed over: {counted(source.ignored)}" if source.ignored else ""
    print(f"{said}{out}: {rows:,} images, {wide} numbers each ({pool} of {model.name}){passed}" if rows else said)
    return 1 if unread else 0


class _Work(NamedTuple):
    """What is embedded, and how: images of a split, with functions and settings of `report.readable`."""

    split: Any
    data: Any
    model: Any
    look: Any
    width: int
    batch_size: int

    def embed(self, writer: Any, places: range) -> Any:
        """Write the embeddings of some images; return those that could not be read."""
        from jaxdino.core.bars import bar
        from jaxdino.evals import report

        some = self.split.chosen(places)
        found, bad = report.readable(some, self.data, self.model, self.look, self.batch_size, len(self.split))
        with bar(None, "embeddings", total=len(some)) as watched:
            for rows, values in found:
                writer.add([some.record_name(row) for row in rows.tolist()], values)
                watched.update(len(rows))
        return bad


def _alone(work: _Work, out: Path, about: Mapping[str, Any]) -> tuple[int, int]:
    """Write all embeddings; return how many, and how many images could not be read."""
    from jaxdino.data.bad_images import check_read
    from jaxdino.retrieval import embeddings

    with embeddings.Writer(out, work.width) as writer:
        bad = work.embed(writer, range(len(work.split)))
        check_read(bad, len(bad), len(work.split), say)
        if bad:
            say(bad.report())
        writer.finish({**about, "unread": len(bad)})
    return writer.rows, len(bad)


def _shared(
    work: _Work, out: Path, about: Mapping[str, Any], named: str, shard: tuple[int, int]
) -> tuple[str, int, int]:
    """Write the blocks of a share, and all embeddings if it is the last one; as `_alone`, after what is said of it."""
    from jaxdino.retrieval import embeddings

    count, mine = len(work.split), 0
    size = -(-BLOCK // work.batch_size) * work.batch_size

    def block(file: Path, places: range) -> None:
        nonlocal mine
        with embeddings.Writer(file, work.width) as writer:
            bad = work.embed(writer, places)
            if bad:
                say(bad.report())
            mine += len(bad)
            writer.finish({"unread": len(bad)})

    def joined(files: Sequence[Path]) -> tuple[int, int]:
        with embeddings.Writer(out, work.width) as writer:
            unread = sum(embeddings.copied(file, writer)["unread"] for file in files)
            if not writer.rows:
                raise UserError(f"none of the {count} images could be read")
            writer.finish({**about, "unread": unread})
        return writer.rows, unread

    said, found = parts.work(parts.Share(named, shard, count, size, ".parquet"), block, joined)
    return (said, 0, mine) if found is None else (f"{said}; ", *found)


def _about(args: argparse.Namespace, model: Any, pool: str, root: str, how: Any) -> dict[str, Any]:
    """Return what the embeddings are made of."""
    return {
        "root": root,
        "pool": pool,
        "weights": kept(args, model),
        "preprocess": dataclasses.asdict(how),
    }


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
