"""Find anomalies, with good images alone and no training: `python -m jaxdino.anomaly fit|predict|evaluate`.

    jaxdino anomaly fit --weights SRC --root GOOD --out DETECTOR
    jaxdino anomaly predict --detector DETECTOR IMAGE... --maps MAPS --out scores.csv
    jaxdino anomaly evaluate --detector DETECTOR --root TEST --masks MASKS

The patches of good images are kept; a patch of another image is as anomalous as it is far from the nearest of them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino import results
from jaxdino.core.arguments import Parser
from jaxdino.core.command import OF_DATA, described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable
from jaxdino.evaluate import OF_HEAD
from jaxdino.made_by import kept, reopened

READ = (
    *("num_threads", "num_workers", "max_pixels", "sixteen_bit", "on_bad", "follow_links"),
    *("crop_mode", "crop_pct", "normalization"),
)
"""Settings of the data that a fit reads."""
MAX_PIXELS = "TIFF and .npy of more pixels are read in strips, other images refused (default 67108864)"
COLUMNS = ("path", "score", "anomalous", "error")


def main(argv: list[str] | None = None) -> int:
    """Run one of the three; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv), words=OF_DATA)


def _run(argv: list[str] | None) -> int:
    args, rest = _parser().parse_known_args(expanded(argv))
    if rest and args.work != "fit":
        raise UserError(f"{rest[0]} is not a flag of anomaly {args.work}; --help lists the flags")
    prepare()
    keep_programs()
    works = {"fit": lambda: fit(args, rest), "predict": lambda: predict(args), "evaluate": lambda: evaluate(args)}
    return works[args.work]()


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=program("anomaly"), description=described("anomaly", __doc__), formatter_class=form)
    parts = parser.add_subparsers(dest="work", required=True, metavar="fit|predict|evaluate")
    add = parts.add_parser(
        "fit",
        help="keep the patches of good images",
        epilog="Settings of the data are given as in a config: --data.crop_mode=center --data.num_threads=4",
        formatter_class=form,
        parents=[flags.overrules(without=OF_HEAD), flags.tiles()],
    ).add_argument
    add("--weights", required=True, help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    add("--root", required=True, help="the folder of the good images, at any depth")
    add("--out", required=True, metavar="DETECTOR", help="folder of the detector")
    add("--method", help="anomalydino (default for a ViT) or patchcore (default for ResNet and ConvNeXt)")
    add("--layers", type=flags.blocks, metavar="N|I,J,..", help="the last N blocks or stages, or their places from 0")
    add("--bank", type=int, default=10_000, metavar="M", help="patches that are kept, at most (default 10000)")
    add("--hold_out", type=float, default=0.2, help="share of the images that sets the threshold (default 0.2)")
    add("--quantile", type=float, default=0.95, help="of their scores: the threshold (default 0.95)")
    add("--dtype", default="float32", help="of the computation: float32 (default), bfloat16 or float16")
    add("--batch_size", type=int, default=16, help="images per batch (default 16)")
    add("--seed", type=int, default=0, help="of the images held out and the bank (default 0)")
    add("--overwrite", action="store_true", help="replace a detector in --out")
    predicting = parts.add_parser(
        "predict", help="score images, and draw where they are anomalous", formatter_class=form
    )
    testing = parts.add_parser(
        "evaluate", help="measure on a folder of good and anomalous images", formatter_class=form
    )
    for part in (predicting, testing):
        part.add_argument("--detector", required=True, metavar="DIR", help="the folder that fit wrote")
        part.add_argument("--weights", help="where the weights are now, if they were moved")
        part.add_argument("--threshold", type=float, help="scores above it are anomalous (default the fitted one)")
        part.add_argument("--batch_size", type=int, default=16, help="images per batch (default 16)")
        part.add_argument("--max_pixels", type=int, metavar="N", help=MAX_PIXELS)
        part.add_argument("--maps", metavar="DIR", help="draw the anomaly map of each image there")
        part.add_argument("--overwrite", action="store_true", help="let files replace others")
    predicting.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    predicting.add_argument("--out", metavar="FILE", help="write a table there (.csv, .json, .jsonl), print no lines")
    testing.add_argument("--root", required=True, help="the folder: good/ and one for each kind of anomaly")
    testing.add_argument("--good", default="good", metavar="NAME", help="the folder of the good images (default good)")
    testing.add_argument("--masks", metavar="DIR", help="masks, DIR/<kind>/<name>_mask.png or <name>.png")
    testing.add_argument("--json", metavar="FILE", help="write the figures there")
    return parser


def fit(args: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Fit a detector as the flags say; return 1 if an image could not be read, else 0.

    Raises:
      UserError: for wrong arguments, before an image is read; for too few images.
    """
    from convert.atomic import refuse_occupied
    from convert.hub import check_there
    from jaxdino.anomalies import detector, fitting
    from jaxdino.anomalies.form import form_named
    from jaxdino.api import tiled
    from jaxdino.core.options import check_range
    from jaxdino.data.sources import load_source
    from jaxdino.evals.report import check_sight
    from jaxdino.evaluate import opened
    from jaxdino.settings.data_flags import data_settings
    from jaxdino.train import pixels

    for name, interval in (("bank", "[1, inf)"), ("batch_size", "[1, inf)"), ("seed", "[0, inf)")):
        check_range(f"--{name}", getattr(args, name), interval)
    check_range("--hold_out", args.hold_out, "(0, 1)")
    check_range("--quantile", args.quantile, "[0, 1]")
    tiles = tiled.given(args)
    out = Path(args.out)
    refuse_occupied(out, args.overwrite, lambda name: name in (detector.ABOUT, detector.BANK))
    cfg, _ = data_settings(rest, "images", args.root, {f"data.{name}" for name in READ})
    cfg = dataclasses.replace(cfg, scenes=True)
    whole = cfg.crop_mode is None
    if whole:
        cfg = dataclasses.replace(cfg, crop_mode="squash")
        say("images are resized whole, without a crop: --data.crop_mode=center crops them as the weights' training did")
    check_there(args.weights)
    source = load_source(cfg)
    model = tiled.tiled(opened(args), tiles)
    check_sight(model)
    if whole:
        model.card = _without_crop(model.card)  # it is said already
    model.card = pixels.settled(cfg, source, model.card, say)
    method, form = form_named(args.method, model, args.layers)
    split, data = source.split("train"), pixels.of_model(cfg, model.card.spec.preprocess)
    how = dict(
        size=args.bank, hold_out=args.hold_out, quantile=args.quantile, batch_size=args.batch_size, seed=args.seed
    )
    bank, threshold, counts = fitting.fit(model, form, split, data, **how, say=say)
    about = {
        "weights": kept(args, model),
        "preprocess": dataclasses.asdict(model.card.spec.preprocess),
        "counts": counts,
    }
    detector.Detector(method, form, bank, threshold, about).save(out, args.overwrite)
    chosen = f"{len(bank):,} of {counts['patches']:,} patches of {counts['images']:,} good images"
    print(f"{out}: {method} of {model.name}, {chosen}; threshold {threshold:.4f} by {counts['held_out']:,} others")
    return 1 if counts["unread"] else 0


def _without_crop(card: Any) -> Any:
    """Return the card of a model that sees images whole."""
    how = dataclasses.replace(card.spec.preprocess, crop_mode="squash", crop_pct=1.0)
    return dataclasses.replace(card, spec=dataclasses.replace(card.spec, preprocess=how))


def predict(args: argparse.Namespace) -> int:
    """Score images; return 1 if one could not be read, else 0.

    Raises:
      UserError: for wrong arguments, before an image is read.
    """
    from jaxdino.anomalies import maps
    from jaxdino.data.inputs import find_inputs

    results.check("--out", args.out, args.overwrite)
    inputs, notes = find_inputs(args.images, args.maps)
    for note in notes:
        say(note)
    files = [one.path for one in inputs]
    places = maps.places(args.maps, files, [one.below for one in inputs], args.overwrite)
    found, threshold, _ = _scored(args, files)
    unread = 0

    def show(row: dict[str, Any]) -> None:
        if "score" in row:
            said = "anomalous" if row["anomalous"] else "good"
            print(f"{printable(row['path'], keep='')}\t{row['score']:.4f}\t{said}")

    with results.opened(args.out, COLUMNS, show) as add:
        for row, score, image, heat in found:
            path = inputs[row].path
            if isinstance(score, str):
                unread += 1
                say(f"{path}: {score}")
                add({"path": path, "error": score})
                continue
            add({"path": path, "score": round(score, 6), "anomalous": score > threshold})
            if places:
                _draw(places[row], image, heat, threshold)
    return 1 if unread else 0


def evaluate(args: argparse.Namespace) -> int:
    """Print the figures of a test folder; return 1 if an image could not be read, else 0.

    Raises:
      UserError: for wrong arguments, before an image is read; if no image can be read.
    """
    import numpy as np

    from jaxdino.anomalies import maps, testing
    from jaxdino.core.json_file import write_json

    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: give a file in a folder that exists")
    if args.json and (Path(args.json).is_dir() or (Path(args.json).exists() and not args.overwrite)):
        raise UserError(f"--json {args.json} exists already: give another file, or --overwrite")
    masks = None if args.masks is None else Path(args.masks)
    listed = testing.listed(Path(args.root), args.good, masks)
    below = [str(Path(file).relative_to(args.root)) for file in listed.files]
    places = maps.places(args.maps, listed.files, below, args.overwrite)
    found, threshold, model = _scored(args, listed.files)
    kinds, scores, heats, unread = [], [], [], 0
    for row, score, image, heat in found:
        if isinstance(score, str):
            unread += 1
            say(f"{listed.files[row]}: {score}")
            continue
        kinds.append(listed.kinds[row])
        scores.append(score)
        if masks is not None:
            heats.append((testing.mask(listed.masks[row], heat.shape, model.card.spec.preprocess), heat))
        if places:
            _draw(places[row], image, heat, threshold)
    if not scores:
        raise UserError(f"--root {args.root}: no image could be read")
    figures = testing.measured(kinds, args.good, np.asarray(scores), threshold, heats) | {
        "threshold": threshold,
        "unread": unread,
    }
    print(_table(figures))
    if args.json:
        write_json(Path(args.json), {"detector": args.detector, "root": args.root} | figures)
    return 1 if unread else 0


def _scored(args: argparse.Namespace, files: Sequence[str]) -> tuple[Iterator[tuple[int, Any, Any, Any]], float, Any]:
    """Return what `scoring.scored` yields for each file, the threshold, and the model.

    Raises:
      UserError: for wrong arguments, a detector that cannot be read, and other weights.
    """
    from jaxdino.anomalies import detector, scoring
    from jaxdino.core.options import check_range

    check_range("--batch_size", args.batch_size, "[1, inf)")
    if args.max_pixels is not None:
        check_range("--max_pixels", args.max_pixels, "[1, inf)")
    if args.threshold is not None:
        check_range("--threshold", args.threshold, "[-inf, inf]")
    fitted = detector.read(args.detector)
    model = reopened(fitted.about.get("weights"), args.detector, args.weights, detector.AGAIN)
    scoring.prepare(model, fitted, args.detector)
    threshold = fitted.threshold if args.threshold is None else args.threshold
    return scoring.scored(model, fitted, files, args.batch_size, args.max_pixels), threshold, model


def _draw(place: Path, image: Any, heat: Any, threshold: float) -> None:
    """Write the anomaly map over its image; colours are at half of their range at the threshold."""
    import io

    from PIL import Image

    from convert.atomic import AtomicFiles
    from jaxdino.anomalies.maps import coloured

    file = io.BytesIO()
    Image.fromarray(coloured(image, heat, threshold)).save(file, "PNG")
    with AtomicFiles(place.parent) as drafts, drafts.open(place.name) as out:
        out.write(file.getvalue())


def _table(figures: dict[str, Any]) -> str:
    """Format the figures of a test."""
    from jaxdino.core.table import format_table

    def shown(one: dict[str, Any], name: str) -> str:
        value, interval = one[name], one.get(f"{name}_interval")
        span = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        return "-" if value is None else f"{value:.4f}{span}"

    n = figures["n"]
    rows = [
        ["image AUROC", shown(figures, "image_auroc")],
        [f"recall at {figures['threshold']:.4f}", shown(figures, "recall")],
        ["false alarms", shown(figures, "false_alarms")],
        ["pixel AUROC", shown(figures, "pixel_auroc")],
        ["PRO", shown(figures, "pro")],
    ]
    kinds = [["kind", "images", "image AUROC", "recall"]]
    for kind, one in figures["kinds"].items():
        kinds.append([kind, f"{one['n']:,}", shown(one, "image_auroc"), shown(one, "recall")])
    head = (
        f"{n['good']:,} good images and {n['anomalous']:,} others, {figures['masks']:,} with known pixels; "
        "95 % intervals: bootstrap of images, Wilson for shares"
    )
    missing = [f"{name.replace('_', ' ')}: not computed, {why}" for name, why in figures["reasons"].items()]
    return "\n".join([head, format_table(rows, rule=False), *missing, "", format_table(kinds)])


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
