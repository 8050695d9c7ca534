"""Write one embedding for each image of a folder: `python -m jaxdino.embed --weights SRC --root DIR --out X.parquet`.

All images below the folder are read, in any layout; labels are not needed. The file has the columns `path` and
`embedding`; a file that ends in .npy has the embeddings alone, with the paths in a .json beside it. `jaxdino search`
finds similar images, near-duplicates and clusters in it.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.host_memory import keep_freed
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import counted, printable
from jaxdino.evaluate import OF_HEAD
from jaxdino.made_by import kept

READ = ("num_threads", "num_workers", "max_pixels", "sixteen_bit", "on_bad", "follow_links")
"""Settings of the data that are read here."""


def main(argv: list[str] | None = None) -> int:
    """Write embeddings; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
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
    add("--overwrite", action="store_true", help="let --out replace a file")
    args, rest = parser.parse_known_args(expanded(argv))
    keep_freed()
    keep_programs()
    return embed(args, rest)


def embed(args: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Write embeddings as the flags say; return 1 if an image could not be read, else 0.

    Raises:
      UserError: for wrong arguments, before an image is read; if no image can be read.
    """
    from jaxdino.api import tiled
    from jaxdino.core.bars import bar
    from jaxdino.core.options import check_range
    from jaxdino.data.bad_images import check_read
    from jaxdino.data.sources import load_source
    from jaxdino.evals import report
    from jaxdino.evaluate import opened
    from jaxdino.retrieval import embed as compute
    from jaxdino.retrieval import embeddings
    from jaxdino.settings.data_flags import data_settings
    from jaxdino.train import pixels

    check_range("--batch_size", args.batch_size, "[1, inf)")
    tiles = tiled.given(args)
    out = embeddings.check_out(args.out, args.overwrite)
    cfg, _ = data_settings(rest, "images", args.root, {f"data.{name}" for name in READ})
    source = load_source(cfg)
    model = tiled.tiled(opened(args), tiles)
    pool = args.pool or compute.default_pool(model)
    wide = compute.width(model, pool)
    how = pixels.settled(cfg, source, model.card, say).spec.preprocess
    split = source.split("train")
    with embeddings.Writer(out, wide) as writer:
        look = compute.embedder(model, pool)
        found, bad = report.readable(split, pixels.of_model(cfg, how), model, look, args.batch_size)
        with bar(None, "embeddings", total=len(split)) as watched:
            for rows, values in found:
                writer.add([split.record_name(row) for row in rows.tolist()], values)
                watched.update(len(rows))
        check_read(bad, len(bad), len(split), say)
        if bad:
            say(bad.report())
        writer.finish(_about(args, model, pool, str(Path(split.root or ".").absolute()), how, len(bad)))
    passed = f"; passed over: {counted(source.ignored)}" if source.ignored else ""
    print(f"{out}: {writer.rows:,} images, {wide} numbers each ({pool} of {model.name}){passed}")
    return 1 if bad else 0


def _about(args: argparse.Namespace, model: Any, pool: str, root: str, how: Any, unread: int) -> dict[str, Any]:
    """Return what the embeddings are made of."""
    return {
        "root": root,
        "pool": pool,
        "weights": kept(args, model),
        "preprocess": dataclasses.asdict(how),
        "unread": unread,
    }


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
