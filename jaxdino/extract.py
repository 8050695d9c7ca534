"""Write the features of a data set to disk: `python -m jaxdino.extract --weights SRC --root DIR --out FEATURES`.

The backbone runs once over all splits; `jaxdino probe` then trains hundreds of heads on the features. Without --root,
the embedded digits are used. A call that was interrupted goes on where it stopped when it is repeated.
"""

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino.core.arguments import Parser
from jaxdino.core.command import OF_DATA, described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable
from jaxdino.evaluate import OF_HEAD
from jaxdino.parts import shard_of

READ = (
    *("val_ratio", "test_ratio", "split_seed", "train_split", "val_split", "test_split", "classes", "images"),
    *("columns", "image_column", "dataset", "max_missing", "follow_links"),
    *("num_threads", "num_workers", "max_pixels", "sixteen_bit", "on_bad", "draft", "digest"),
)
"""Settings of the data that an extraction reads."""
HOW = ("num_threads", "num_workers", "digest")
"""Settings that do not change the features."""
WORDS = {
    "--config=multilabel, or ": "",
    "--config.objective.name=multilabel": "--multilabel",
    "error: n=": "error: --layers=",
    **OF_DATA,
}
"""{words of the errors of training and of `jaxdino.load`: those of this command}."""


def main(argv: list[str] | None = None) -> int:
    """Write features; return the exit status, see `finish`."""
    return finish(lambda: _run(argv), words=WORDS)


def _run(argv: list[str] | None) -> None:
    args, rest = _parser().parse_known_args(expanded(argv))
    prepare()
    keep_programs()
    extract(args, rest)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("extract"),
        description=described("extract", __doc__),
        epilog="Settings of the data are given as in a config: --data.val_ratio=0.1 --data.classes=leaf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules(without=OF_HEAD), flags.tiles()],
    )
    add = parser.add_argument
    add("--weights", required=True, help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    add("--root", help="the data, as config.data.root of a run; by default the embedded digits")
    add("--name", default="folder", help="the source, as config.data.name of a run (default folder)")
    add("--out", required=True, metavar="FEATURES", help="folder of the features")
    add("--multilabel", action="store_true", help="an image may have several classes")
    add("--layers", type=int, default=1, metavar="N", help="features of the last N blocks or stages (default 1)")
    add("--patches", action="store_true", help="also the patch tokens of the last block, for the attentive probe")
    add("--store", default="float32", choices=("float32", "bfloat16", "int8"), help="how values are stored")
    add("--views", type=int, default=0, metavar="K", help="also K augmented views of each training image (default 0)")
    add("--augment", default="light", metavar="PRESET", help="augmentation of these views (default light)")
    add("--format", default="npy", choices=("npy", "pt"), help="pt: also train.pt, val.pt and test.pt for PyTorch")
    add("--shard", default="1/1", metavar="I/N", help="work on part I of N, each part in a process of its own")
    add("--shard_rows", type=int, default=8192, metavar="ROWS", help="images in a shard, at most (default 8192)")
    add("--overwrite", action="store_true", help="delete features in --out that were made otherwise")
    add("--dtype", default="float32", help="of the computation: float32 (default), bfloat16 or float16")
    add("--batch_size", type=int, default=64, help="images per batch (default 64)")
    add("--seed", type=int, default=0, help="seed of the augmented views (default 0)")
    return parser


def extract(args: argparse.Namespace, rest: Sequence[str] = ()) -> None:
    """Write features as the flags say.

    Raises:
      UserError: for wrong arguments and stale features, before an image is read; if no image can be read.
    """
    import jax

    from convert.hub import check_there
    from jaxdino.api import tiled
    from jaxdino.core import sharding
    from jaxdino.data.presets import get_preset
    from jaxdino.data.sources import load_source
    from jaxdino.evals.report import check_sight
    from jaxdino.evaluate import opened
    from jaxdino.features import forward, writer
    from jaxdino.settings.data_flags import data_settings
    from jaxdino.train import pixels
    from jaxdino.train.data import summary

    part, tiles = _checked(args), tiled.given(args)
    get_preset(args.augment)
    cfg, prompts = _settings(args, rest, data_settings)
    field = "labels" if args.multilabel else "" if args.name == "images" else "label"
    check_there(args.weights)
    source = load_source(cfg, field or "label", prompts)
    say(summary(source))
    devices = jax.local_devices()
    mesh = sharding.make_mesh(devices=devices) if len(devices) > 1 else None
    model = tiled.tiled(opened(args, mesh), tiles)
    check_sight(model)
    how = pixels.settled(cfg, source, model.card, say).spec.preprocess
    shapes = forward.shapes(model, args.layers, args.patches)
    args.shard_rows = writer.rows_of(args.shard_rows, shapes)
    made = _made(args, model, how, (cfg, prompts, field), source)
    folder = Path(args.out)
    writer.begin(folder, made, shapes, args.overwrite)
    steps = _extraction(args, model, pixels.of_model(cfg, how), mesh)
    writer.write_shards(folder, made, source, steps, part, say)
    about = writer.finish(folder, made, source, shapes)
    if about is None:
        say(f"part {args.shard} is written; the features are complete when all {part[1]} parts have run")
        return
    _report(folder, about, args.format)


def _checked(args: argparse.Namespace) -> tuple[int, int]:
    """Check the numbers; return (index from 0, count) of --shard."""
    from jaxdino.core.options import check_range

    for name, interval in (("layers", "[1, inf)"), ("views", "[0, inf)"), ("shard_rows", "[1, inf)")):
        check_range(f"--{name}", getattr(args, name), interval)
    check_range("--batch_size", args.batch_size, "[1, inf)")
    check_range("--seed", args.seed, "[0, inf)")
    part = shard_of(args.shard)
    if args.root is None and args.name not in ("folder", "digits"):
        raise UserError(f"--name {args.name} needs --root: the folder or file of the data")
    return part


def _settings(args: argparse.Namespace, rest: Sequence[str], data_settings: Any) -> tuple[Any, Any]:
    name = args.name if args.root else "digits"
    root = str(args.root) if args.root else None
    read = {f"data.{one}" for one in READ} | {"prompts.annotations"}
    cfg, prompts = data_settings(rest, name, root, read)
    return dataclasses.replace(cfg, scenes=True), prompts


def _made(args: argparse.Namespace, model: Any, how: Any, data: tuple[Any, Any, str], source: Any) -> Any:
    """Return what the features are made of."""
    from jaxdino.api import tiled
    from jaxdino.data.identity import identify
    from jaxdino.features.manifest import Made

    cfg, prompts, field = data
    root = None if cfg.root is None else ",".join(str(Path(one).absolute()) for one in cfg.root.split(","))
    given = {name: getattr(cfg, name) for name in ("name", *READ) if name not in HOW} | {"root": root}
    own = {"settings": given, "field": field, "prompts": {"annotations": prompts.annotations}}
    weights = {"name": model.name, "digest": model.digest, "dtype": args.dtype}
    views = {"views": args.views} | ({"preset": args.augment, "seed": args.seed} if args.views else {})
    settings = {"layers": args.layers, "patches": args.patches, "store": args.store, "shard_rows": args.shard_rows}
    settings |= tiled.given(args)
    preprocess = dataclasses.asdict(how)
    return Made(weights, preprocess, settings | views, own, identify(source, cfg.digest), opened_by=_opened_by(args))


def _opened_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return the source of the weights and the flags they were opened with, to open them again."""
    place = Path(args.weights)
    return {"weights": str(place.absolute()) if place.exists() else args.weights, **flags.given(args, OF_HEAD)}


def _extraction(args: argparse.Namespace, model: Any, cfg: Any, mesh: Any) -> Any:
    """Return the function (records, shard, view) -> batches of features, and the images that cannot be read."""
    from jaxdino.data.pipeline import make_eval_iter
    from jaxdino.data.presets import get_preset
    from jaxdino.evals.passes import outputs
    from jaxdino.features import forward

    how, many = model.card.spec.preprocess, mesh.size if mesh else 1
    batch_size = -(-args.batch_size // many) * many
    features = model, args.layers, args.patches
    plain, augmented = forward.plain_step(*features), forward.augmented_step(*features, get_preset(args.augment))
    names = ("image", "weight", "index", "image_operations")

    def extraction(split: Any, shard: Any, view: int) -> tuple[Any, Any]:
        text = f"{args.seed} {shard.place} {view}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
        augment = {"preset": args.augment, "seed": seed} if view else {}
        size = dict(batch_size=batch_size, image_size=how.size, resize=how.resize, channels=len(how.mean))
        batches = make_eval_iter(split, cfg, fields=(), **size, **augment)
        return outputs(augmented(seed) if view else plain, batches, names, mesh), batches.bad

    return extraction


def _report(folder: Path, about: dict[str, Any], form: str) -> None:
    """Print what was written."""
    from jaxdino.features.reader import open_features
    from jaxdino.features.torch_export import write_pt

    for split, count in about["unread"].items():
        if count:
            say(f"{count} images of {split} could not be read: the column `reason` of {folder}/index.parquet says why")
    cache = open_features(folder)
    images = ", ".join(f"{split} {count:,}" for split, count in cache.images.items())
    widths = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in about["features"].items())
    print(f"{folder}: {images} images; features: {widths}; {len(about['shards'])} shards")
    for file in write_pt(cache) if form == "pt" else ():
        print(file)


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
